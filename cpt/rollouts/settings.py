"""vLLM's arguments as the run needs them, and its errors as one line for the user."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cpt.errors import UserError
from cpt.lora import takes_from_base
from cpt.recipe import Recipe

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM makes room for
REASON = 300  # characters of what vLLM says, at most
KV_CACHE_BYTES = 2**30  # on the CPU, where vLLM would take most of the machine's memory; 1 GiB serves our small models


def environment(one_machine: bool) -> dict[str, str]:
    """Environment variables that vLLM reads when it is imported; those that the user set stay.

    An engine that is on `one_machine` alone, with the training, listens at no address that others reach.
    """
    import torch

    wanted = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CONFIGURE_LOGGING": "0"}
    if one_machine:
        wanted["VLLM_HOST_IP"] = "127.0.0.1"
        if "lo" in (name for _, name in socket.if_nameindex()):
            wanted["GLOO_SOCKET_IFNAME"] = "lo"
    if not torch.cuda.is_available():
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # else its threads and the trainer's fight for the same core
    return wanted | {name: os.environ[name] for name in wanted if name in os.environ}


def engine_arguments(recipe: Recipe) -> dict[str, Any]:
    """vLLM's EngineArgs, without the model: ours under the recipe's own."""
    import torch

    given = recipe.rollouts.arguments
    cuda = torch.cuda.is_available()
    ours: dict[str, Any] = {
        "dtype": "bfloat16" if cuda else "float32",
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "worker_extension_cls": "cpt.rollouts.worker.PolicyWorker",
        "trust_remote_code": recipe.model.trust_remote_code,
        "seed": 0,
    }
    if not cuda:
        ours["enforce_eager"] = True  # compiling takes 30 s and gains nothing on small models
        if "gpu_memory_utilization" not in given:
            ours["kv_cache_memory_bytes"] = KV_CACHE_BYTES
    if recipe.adapter is not None:
        options = recipe.adapter.model_dump()
        rank = options.get("r", 8) * (2 if takes_from_base(options) else 1)  # 8 is PEFT's default
        fitting = [each for each in LORA_RANKS if each >= rank]
        if not fitting:
            raise UserError(f"adapter.r: vLLM serves ranks up to {LORA_RANKS[-1]}, not {rank}")
        ours |= {"enable_lora": True, "max_lora_rank": fitting[0], "max_loras": 1}
    return ours | given


@contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
    """Raise what vLLM refuses at its start as one line for the user."""
    try:
        yield
    except Exception as error:
        line = explanation(f"{type(error).__name__}: {error}", recipe)
        if line is None:
            raise
        raise UserError(line) from error


def explanation(log: str, recipe: Recipe) -> str | None:
    """What the user can do about an error (or the last lines of a log) of vLLM's start; None where we do not know it."""
    lines, log = log.splitlines(), " ".join(log.split())
    if match := re.search(r"max seq len \((\d+)\).*?KV cache is needed.*?memory \(([\d.]+) GiB\)", log):
        fits = re.search(r"estimated maximum model length is (\d+)", log)
        value = (
            f"rollouts.max_model_len: at most {fits[1]} fits" if fits else "rollouts.gpu_memory_utilization: raise it"
        )
        return (
            f"{value}: vLLM's cache of {match[2]} GiB cannot hold an answer of {match[1]} tokens "
            "(kv_cache_memory_bytes or gpu_memory_utilization give it more)"
        )
    if match := re.search(
        r"(?:Free memory on device|Available memory on node) .*?\(([\d.]+)/([\d.]+) GiB\).*?utilization \(([\d.]+)",
        log,
    ):
        fits = max(0.0, float(match[1]) / float(match[2]) - 0.02)
        return (
            f"rollouts.gpu_memory_utilization: {match[3]} is more than the device has free ({match[1]} of {match[2]} GiB): "
            f"{fits:.2f} fits"
        )
    if match := re.search(
        r"\(([\d.]+)/([\d.]+) GiB\) on kv cache allocation is less than requested .*?\(([\d.]+)", log
    ):
        return (
            f"rollouts.kv_cache_memory_bytes: {match[3]} GiB were asked for, {match[1]} GiB are free: "
            f"{int(float(match[1]) * 0.8 * 2**30)} fits"
        )
    if "No available memory for the cache blocks" in log:
        key = (
            "kv_cache_memory_bytes"
            if "kv_cache_memory_bytes" in recipe.rollouts.arguments
            else "gpu_memory_utilization"
        )
        return f"rollouts.{key}: nothing is left for one block of vLLM's cache: raise it"
    if "CUDA out of memory" in log or "OutOfMemoryError" in log:
        return "rollouts.gpu_memory_utilization: vLLM ran out of memory while it started: lower it, or max_num_seqs"
    if "are not supported for now" in log or "has no vLLM implementation" in log:
        return f"rollouts.engine: vLLM does not support this model ({recipe.model.path}): use `engine: transformers`"
    if match := re.search(r"Unsupported CPU attention configuration: (head_dim=\d+)", log):
        return f"rollouts.engine: vLLM on the CPU has no attention for {match[1]}: use `engine: transformers`"
    if match := re.search(r"max_model_len \((\d+)\) is greater than the derived max_model_len \(.*?(\d+)", log):
        return f"rollouts.max_model_len: {match[1]} is more than the model's context of {match[2]}"
    return refusal(lines, log, recipe)


def refusal(lines: list[str], log: str, recipe: Recipe) -> str | None:
    """What vLLM has against the arguments that the recipe gives it, if it has: its own words, and the arguments."""
    match = re.search(r"validation errors? for \w+ (.*?) \[type=", log)
    match = match or re.search(r"serve: error: (argument .*)", log)
    wrong = [
        each[1]
        for line in lines
        if (each := re.search(r"^(?:\(\w+ pid=\d+\) (?:ERROR .*?\] )?)?ValueError: (.*)", line))
    ]
    given = ", ".join(f"{name}: {value}" for name, value in recipe.rollouts.arguments.items())
    if not given or not (match or wrong):
        return None
    return f"rollouts: vLLM does not start with {given}: {(match[1] if match else wrong[-1])[:REASON]}"
