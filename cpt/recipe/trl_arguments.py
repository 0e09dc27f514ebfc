"""What a stage's `args` may be, without importing TRL (12 s): names, types and defaults read from the installed source.

`args` go unchanged to TRL's config. Here they are only checked, so that a typo costs a line and not a run.
"""

import ast
import math
import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

from cpt.errors import nearest, shown
from cpt.recipe.config_fields import class_fields, package_folder, popped_keywords, wrong_type
from cpt.recipe.hints import hint
from cpt.recipe.stages import StageSpec
from cpt.recipe.trl_bounds import NEVER_NULL, not_a_choice, outside

REFUSED = {
    "output_dir": "the run directory decides it: use --out",
    "seed": "use the recipe's `seed`, from which each stage's own is drawn",
    "data_seed": "use the recipe's `seed`, from which each stage's own is drawn",
    "use_vllm": "use `rollouts.engine: vllm`",
    "resume_from_checkpoint": "the same `cpt run` command resumes by itself",
    "deepspeed": "pass it to `accelerate launch --config_file`",
    "fsdp": "pass it to `accelerate launch --config_file`",
    "fsdp_config": "pass it to `accelerate launch --config_file`",
    "parallelism_config": "pass it to `accelerate launch --config_file`",
    "report_to": "training curves are in metrics.jsonl and the report",
    "save_only_model": "a checkpoint without the optimiser cannot be resumed exactly; remove it",
    "ignore_data_skip": "a resumed stage must continue where its rows stopped; remove it",
    "enable_jit_checkpoint": "SIGTERM and Ctrl-C already save the progress",
    "auto_find_batch_size": "the batch must not depend on free memory: set per_device_train_batch_size",
    "sync_ref_model": "the reference is fixed: use `reference` (stage-start, base) beside `args`",
    "load_best_model_at_end": "a stage ends with its last weights: set max_steps",
    "eval_strategy": "every point is evaluated: use the recipe's `evaluation`",
    "eval_on_start": "every point is evaluated: use the recipe's `evaluation`",
    "do_eval": "every point is evaluated: use the recipe's `evaluation`",
    "remove_unused_columns": "the run chooses the columns of the rows; remove it",
    "model_init_kwargs": "use `model` (dtype, attn_implementation, revision)",
    "trust_remote_code": "use `model.trust_remote_code`",
    "chat_template_kwargs": "use `model.chat_template_kwargs`",
    "chat_template_path": "use `model.chat_template`",
    "disable_tqdm": "use --quiet",
}
SAVE_STRATEGY = "checkpoints are taken at steps: use `save_steps`"  # refused but for `steps`
REFUSED_PREFIXES = {"vllm_": "use `rollouts`", "push_to_hub": "push the finished run's `final` folder yourself"}


NEEDS_PACKAGE = {"use_liger_kernel": "liger_kernel"}  # switches that import it at their first use


def problems(spec: type[StageSpec], args: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(argument, what is wrong with it) for a stage's `args`: each by itself, then together."""
    alone = list(own_problems(spec, args))
    yield from alone
    if spec.uses_engine and not {name for name, _ in alone} & {*ROLLOUT_ARGUMENTS, "save_steps"}:
        yield from rollout_problems(spec, args)


def own_problems(spec: type[StageSpec], args: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(argument, what is wrong with it) for each of `args` by itself."""
    known = spec.arguments()
    for name, value in args.items():
        refused = REFUSED.get(name) or spec.refused.get(name)
        refused = refused or next((w for p, w in REFUSED_PREFIXES.items() if name.startswith(p)), None)
        if refused:
            yield name, f"is not supported: {refused}"
        elif name not in known:
            yield name, f"{spec.trl_config} has no such argument{hint('args', name, known)}"
        elif wrong := wrong_type(value, known[name].annotation) or wrong_value(spec, name, value):
            yield name, wrong


def wrong_value(spec: type[StageSpec], name: str, value: Any) -> str | None:
    """What is wrong with a value of the right type; None where nothing is."""
    if name == "save_strategy" and value != "steps":
        return f"is not supported: {SAVE_STRATEGY}"
    if name in NEVER_NULL and value is None:
        return "must be a number, not null"
    if value is True and (package := NEEDS_PACKAGE.get(name)) and find_spec(package) is None:
        return f"needs the package {package.replace('_', '-')}: pip install {package.replace('_', '-')}, or remove it"
    return not_a_choice(spec.trl_config, name, value) or outside(name, value)


def batch_of(spec: type[StageSpec], args: dict[str, Any]) -> int:
    """The completions that all processes together take in one pass."""
    return spec.value_in(args, "per_device_train_batch_size") * int(os.environ.get("WORLD_SIZE", "1"))


def generation(spec: type[StageSpec], args: dict[str, Any]) -> tuple[int, int, int]:
    """(completions generated at once, completions of a prompt, optimiser steps between two generations)."""
    get = {name: spec.value_in(args, name) for name in ROLLOUT_ARGUMENTS}
    a_step = batch_of(spec, args)
    steps = get["steps_per_generation"] or get["gradient_accumulation_steps"]
    if get["generation_batch_size"]:
        steps = max(1, get["generation_batch_size"] // a_step)
    batch = get["generation_batch_size"] or a_step * steps
    period = checkpoint_period(get["num_iterations"] or 1, steps, get["gradient_accumulation_steps"])
    return batch, 1 if get["num_generations"] is None else get["num_generations"], period


def rollout_problems(spec: type[StageSpec], args: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The arithmetic of rollouts: groups must fill the generation batch, checkpoints must fall on its boundaries."""
    if args.get("generation_batch_size") is not None and args.get("steps_per_generation") is not None:
        yield "generation_batch_size", "says the same as steps_per_generation: keep one of the two"
        return
    batch, group, period = generation(spec, args)
    a_step = batch_of(spec, args)
    if batch % a_step:
        yield "generation_batch_size", f"({batch}) must be a multiple of the batch of a step ({a_step} completions)"
        return
    if group < spec.smallest_group:
        yield "num_generations", f"({group}) must be at least 2: a group is compared with its own mean"
    elif batch % group:
        fitting = [n for n in range(2, batch + 1) if batch % n == 0]
        near = sorted(sorted(fitting, key=lambda n: abs(n - group))[:2])
        use = f"use {' or '.join(map(str, near))}" if near else "raise per_device_train_batch_size"
        yield "num_generations", f"({group}) must divide the batch ({batch} completions): {use}"
    every = args.get("save_steps")
    if every is not None and every < 1 and period > 1:
        yield "save_steps", f"({every}) must be a multiple of {period} (steps between two generations), not a fraction"
    elif every is not None and every >= 1 and every % period:
        lower, upper = int(every // period * period), math.ceil(every / period) * period
        use = f"{lower} or {upper}" if lower else f"{upper}"
        yield "save_steps", f"({every}) must be a multiple of {period} (steps between two generations): use {use}"


def checkpoint_period(num_iterations: int, steps_per_generation: int, gradient_accumulation_steps: int) -> int:
    """Optimiser steps between places where a GRPO checkpoint is exact: both between two generations and between two steps.

    A generation serves `num_iterations * steps_per_generation` micro-batches; its rollouts and their counter are not in
    the trainer's checkpoints.
    """
    served = max(1, num_iterations * steps_per_generation)
    return math.lcm(served, gradient_accumulation_steps) // gradient_accumulation_steps


ROLLOUT_ARGUMENTS = (
    "generation_batch_size",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "num_generations",
    "num_iterations",
)


# Keys of `generation_kwargs` that `args` name already, that the model's tokenizer decides, or that draw no samples.
DECIDED_ELSEWHERE = {
    **dict.fromkeys(("max_new_tokens", "max_tokens", "max_length"), "set `max_completion_length` in `args`"),
    **dict.fromkeys(("num_return_sequences", "n", "best_of"), "set `num_generations` in `args`"),
    **{name: f"set `{name}` in `args`" for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")},
    "cache_implementation": "set `cache_implementation` in `args`",
    **dict.fromkeys(
        ("do_sample", "num_beams", "num_beam_groups", "early_stopping", "length_penalty", "diversity_penalty"),
        "each rollout is sampled independently; remove it",
    ),
    **dict.fromkeys(
        ("eos_token_id", "pad_token_id", "bos_token_id", "stop_token_ids", "ignore_eos"),
        "the tokenizer and the task's `stop` decide it; remove it",
    ),
    **dict.fromkeys(
        ("return_dict_in_generate", "output_scores", "output_logits", "logprobs", "prompt_logprobs", "detokenize"),
        "the trainer decides what it needs of each rollout; remove it",
    ),
}


def generation_problems(args: dict[str, Any], engine: Any) -> Iterator[tuple[str, str]]:
    """Keys of rlvr's `generation_kwargs` that another key decides, or that generation would take and never use."""
    options = args.get("generation_kwargs")
    if not isinstance(options, dict):
        return
    known = popped_keywords("transformers", "generation/configuration_utils.py", "GenerationConfig")
    for name in options:
        if name in DECIDED_ELSEWHERE:
            yield "generation_kwargs", f"{name} is not supported: {DECIDED_ELSEWHERE[name]}"
        elif engine == "transformers" and name not in known:
            yield "generation_kwargs", f"transformers' GenerationConfig has no {name}{nearest(name, known)}"


# -- adapters ------------------------------------------------------------------------------------------------------------


@cache
def adapter_kinds() -> dict[str, tuple[str, str, str]]:
    """PEFT's kinds of adapter, as PEFT registers them: name -> (package, file, class)."""
    kinds = {}
    for file in sorted((package_folder("peft") / "tuners").glob("*/__init__.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "register_peft_method":
                keywords = {word.arg: word.value for word in node.keywords}
                config = f"tuners/{file.parent.name}/config.py"
                kinds[keywords["name"].value] = ("peft", config, keywords["config_cls"].id)
    return kinds


UNTRAINABLE = {  # PEFT has them, but TRL's trainers do not give what their models take
    **dict.fromkeys(("multitask_prompt_tuning", "poly"), "task_ids with each batch"),
    "cpt": "the types of all tokens with each batch",
}


def adapter_problems(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it) for the recipe's `adapter`."""
    kind, kinds = str(options["kind"]).lower(), adapter_kinds()
    if kind not in kinds:
        near = nearest(kind, kinds)
        yield "kind", f"PEFT has no adapter {shown(options['kind'])}{near}; there are: {', '.join(kinds)}"
        return
    if kind in UNTRAINABLE:
        yield "kind", f"{options['kind']} needs {UNTRAINABLE[kind]}, which no TRL trainer gives: use another kind"
        return
    known = class_fields(*kinds[kind])
    if "num_virtual_tokens" in known and options.get("num_virtual_tokens") is None:
        yield "kind", f"{options['kind']} needs `num_virtual_tokens` beside it"
    for name, value in options.items():
        if name == "kind":
            continue
        if name not in known:
            yield name, f"{kinds[kind][2]} has no such field{hint('adapter', name, known)}"
        elif name == "init_lora_weights" and isinstance(value, str):
            continue  # `recipe_adapter` knows which there are: PEFT's annotation spells out no pissa_niter_N
        elif wrong := wrong_type(value, known[name].annotation) or outside(name, value):
            yield name, wrong


# -- what is known to be taken -------------------------------------------------------------------------------------------

# Arguments whose values are all checked here, so that TRL takes what passes: a test builds its configs from many of them.
PLAIN = {
    *("learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "logging_steps"),
    *(
        "save_steps",
        "num_generations",
        "steps_per_generation",
        "num_iterations",
        "max_completion_length",
        "temperature",
    ),
    *("top_p", "top_k", "beta", "epsilon", "epsilon_high", "scale_rewards", "loss_type", "max_length"),
    *("mask_truncated_completions", "gradient_checkpointing", "importance_sampling_level", "lr_scheduler_type", "bf16"),
}
PLAIN_VALUES = {  # the values that need no other argument, package or device
    "lr_scheduler_type": ("linear", "cosine", "constant", "constant_with_warmup"),
    "bf16": (False,),
}


def is_plain(args: dict[str, Any]) -> bool:
    """Whether TRL is known to take these `args`, which passed `problems`, on any machine."""
    return all(name in PLAIN and args[name] in PLAIN_VALUES.get(name, (args[name],)) for name in args)
