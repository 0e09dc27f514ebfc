"""What a stage's `args` may be, without importing TRL (12 s): names, types and defaults read from the installed source.

`args` go word for word to TRL's config. Here they are only checked, so that a typo costs a line and not a run.
"""

import ast
import difflib
import math
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

from cpt.signatures import Argument, class_fields, nearest, package_folder, wrong_type

CONFIGS = {
    "sft": ("trl", "trainer/sft_config.py", "SFTConfig"),
    "dpo": ("trl", "trainer/dpo_config.py", "DPOConfig"),
    "rlvr": ("trl", "trainer/grpo_config.py", "GRPOConfig"),
}
# Ours over TRL's. Each with its source; everything else is TRL's own default.
STAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {},
    "rlvr": {"beta": 0.0, "temperature": 1.0},  # no KL, T 1: 2507.05386 (GRPO without KL forgets as little), 2503.20783
}

REFUSED = {
    "output_dir": "the run directory decides it: use --out",
    "seed": "use the recipe's `seed`, from which each stage's own is drawn",
    "data_seed": "use the recipe's `seed`, from which each stage's own is drawn",
    "use_vllm": "use `rollouts.engine: vllm`",
    "resume_from_checkpoint": "the same `cpt run` command goes on by itself",
    "deepspeed": "give it to `accelerate launch --config_file`",
    "fsdp": "give it to `accelerate launch --config_file`",
    "fsdp_config": "give it to `accelerate launch --config_file`",
    "report_to": "training curves are in metrics.jsonl and the report",
}
REFUSED_PREFIXES = {"vllm_": "use `rollouts`", "push_to_hub": "push the finished run's `final` folder yourself"}


@cache
def arguments(kind: str) -> dict[str, Argument]:
    """The fields of the TRL config of a stage kind, its bases' included."""
    return class_fields(*CONFIGS[kind])


def problems(kind: str, args: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(argument, what is wrong with it) for a stage's `args`."""
    known = arguments(kind)
    for name, value in args.items():
        refused = REFUSED.get(name) or next((w for p, w in REFUSED_PREFIXES.items() if name.startswith(p)), None)
        if refused:
            yield name, f"is not taken here: {refused}"
        elif name not in known:
            yield name, f"{CONFIGS[kind][2]} has no such argument{nearest(name, known)}"
        elif wrong := wrong_type(value, known[name].annotation):
            yield name, wrong
    if kind == "rlvr":
        yield from rollout_problems(args)


def value_of(args: dict[str, Any], kind: str, name: str) -> Any:
    """What the argument will be: the recipe's, else TRL's default."""
    return args.get(name, arguments(kind)[name].default)


def rollout_problems(args: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """GRPO's arithmetic: groups must fill the generation batch, checkpoints must fall on its boundaries."""
    get = {name: value_of(args, "rlvr", name) for name in ROLLOUT_ARGUMENTS}
    if any(not isinstance(get[name], int | None) for name in ROLLOUT_ARGUMENTS):
        return  # the wrong type is reported already
    at_once = get["per_device_train_batch_size"] * int(os.environ.get("WORLD_SIZE", "1"))
    given = max(1, get["generation_batch_size"] // at_once) if get["generation_batch_size"] and at_once else None
    steps = get["steps_per_generation"] or given or get["gradient_accumulation_steps"]
    batch = get["generation_batch_size"] or at_once * steps
    group = get["num_generations"]
    if group < 2:
        yield "num_generations", f"({group}) must be at least 2: a group is compared with its own mean"
    elif batch % group:
        fitting = [n for n in range(2, batch + 1) if batch % n == 0]
        near = sorted(sorted(fitting, key=lambda n: abs(n - group))[:2])
        use = f"use {' or '.join(map(str, near))}" if near else "raise per_device_train_batch_size"
        yield "num_generations", f"({group}) must divide the batch ({batch} completions): {use}"
    period = checkpoint_period(get["num_iterations"], steps, get["gradient_accumulation_steps"])
    every = args.get("save_steps")
    if isinstance(every, int) and every % period:
        lower, upper = every // period * period, math.ceil(every / period) * period
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


# -- adapters ------------------------------------------------------------------------------------------------------------


@cache
def adapter_kinds() -> dict[str, tuple[str, str, str]]:
    """PEFT's kinds of adapter: name -> (package, file, class)."""
    found = {}
    for file in sorted((package_folder("peft") / "tuners").glob("*/config.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.lower() == f"{file.parent.name.replace('_', '')}config":
                found[file.parent.name] = ("peft", f"tuners/{file.parent.name}/config.py", node.name)
    return found


def adapter_problems(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it) for the recipe's `adapter`."""
    kind, kinds = str(options["kind"]).lower(), adapter_kinds()
    if kind not in kinds:
        near = difflib.get_close_matches(kind, kinds, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        yield "kind", f"PEFT has no adapter {options['kind']!r}; {hint}there are {', '.join(kinds)}"
        return
    known = class_fields(*kinds[kind])
    for name, value in options.items():
        if name == "kind":
            continue
        if name not in known:
            yield name, f"{kinds[kind][2]} has no such field{nearest(name, known)}"
        elif wrong := wrong_type(value, known[name].annotation):
            yield name, wrong
