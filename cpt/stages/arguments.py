"""What a stage's `args` may be, without importing TRL (12 s): names, types and defaults read from the installed source.

`args` go word for word to TRL's config. Here they are only checked, so that a typo costs a line and not a run.
"""

import ast
import difflib
import importlib.util
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

CONFIGS = {
    "sft": ("trl", "trainer/sft_config.py", "SFTConfig"),
    "dpo": ("trl", "trainer/dpo_config.py", "DPOConfig"),
    "rlvr": ("trl", "trainer/grpo_config.py", "GRPOConfig"),
}
BASES = {
    "_BaseConfig": ("trl", "trainer/base_config.py", "_BaseConfig"),
    "TrainingArguments": ("transformers", "training_args.py", "TrainingArguments"),
    "PeftConfigMixin": ("peft", "config.py", "PeftConfigMixin"),
    "PeftConfig": ("peft", "config.py", "PeftConfig"),
    "PromptLearningConfig": ("peft", "config.py", "PromptLearningConfig"),
    "PromptTuningConfig": ("peft", "tuners/prompt_tuning/config.py", "PromptTuningConfig"),
    "LycorisConfig": ("peft", "tuners/lycoris_utils.py", "LycorisConfig"),
    "LoraConfig": ("peft", "tuners/lora/config.py", "LoraConfig"),
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
    "use_vllm": "use `rollouts.engine`",
    "resume_from_checkpoint": "the same `cpt run` command goes on by itself",
    "deepspeed": "give it to `accelerate launch --config_file`",
    "fsdp": "give it to `accelerate launch --config_file`",
    "fsdp_config": "give it to `accelerate launch --config_file`",
    "report_to": "training curves are in metrics.jsonl and the report",
}
REFUSED_PREFIXES = {"vllm_": "use `rollouts`", "push_to_hub": "push the finished run's `final` folder yourself"}


@dataclass(frozen=True)
class Argument:
    """One field of a TRL config: its annotation as written, and its default (UNKNOWN where it is not a literal)."""

    name: str
    annotation: str
    default: Any


UNKNOWN = object()


@cache
def arguments(kind: str) -> dict[str, Argument]:
    """The fields of the TRL config of a stage kind, its bases' included."""
    return class_fields(*CONFIGS[kind])


@cache
def class_fields(package: str, file: str, name: str) -> dict[str, Argument]:
    """The dataclass fields of a class, read with `ast` from an installed package."""
    tree = ast.parse((package_folder(package) / file).read_text(encoding="utf-8"))
    node = next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)
    fields: dict[str, Argument] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in BASES:
            fields |= class_fields(*BASES[base.id])
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.value is not None:
            field = each.target.id
            fields[field] = Argument(field, ast.unparse(each.annotation), default_of(each.value))
    return fields


def package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is not installed"
    return Path(spec.origin).parent


def default_of(value: ast.expr) -> Any:
    """The default of `x: int = 3`, `x: int = field(default=3)` or `field(default_factory=dict)`."""
    if isinstance(value, ast.Call):
        by_name = {keyword.arg: keyword.value for keyword in value.keywords}
        if "default" not in by_name:
            return UNKNOWN
        value = by_name["default"]
    try:
        return ast.literal_eval(value)
    except ValueError:
        return UNKNOWN


def problems(kind: str, args: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(argument, what is wrong with it) for a stage's `args`."""
    known = arguments(kind)
    for name, value in args.items():
        refused = REFUSED.get(name) or next((w for p, w in REFUSED_PREFIXES.items() if name.startswith(p)), None)
        if refused:
            yield name, f"is not taken here: {refused}"
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield name, f"{CONFIGS[kind][2]} has no such argument{hint}"
        elif wrong := wrong_type(value, known[name].annotation):
            yield name, wrong
    if kind == "rlvr":
        yield from rollout_problems(args)


TYPES = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string", "None": "null"}
CONTAINERS = {"list": (list, "a list"), "dict": (dict, "a map"), "tuple": (list, "a list")}


def wrong_type(value: Any, annotation: str) -> str | None:
    """What is wrong with `value` for an annotation such as `int | None`; None where it fits or cannot be told."""
    expected = []
    for option in union(annotation):
        head = option.split("[")[0]
        if option in TYPES:
            fits = {
                "int": isinstance(value, int) and not isinstance(value, bool),
                "float": isinstance(value, int | float) and not isinstance(value, bool),
                "bool": isinstance(value, bool),
                "str": isinstance(value, str),
                "None": value is None,
            }[option]
            expected.append(TYPES[option])
        elif head in CONTAINERS:
            fits = isinstance(value, CONTAINERS[head][0])
            expected.append(CONTAINERS[head][1])
        elif head == "Literal":
            choices = ast.literal_eval(f"({option[len('Literal[') : -1]},)")
            fits = value in choices
            expected.append(f"one of {', '.join(map(str, choices))}")
        else:  # an enumeration or a class: the config itself will say
            return None
        if fits:
            return None
    return f"must be {' or '.join(expected)}, not {value!r}"


def union(annotation: str) -> list[str]:
    """`Optional[int]` and `int | None` -> [int, None]."""
    annotation = annotation.strip("'\"")
    if annotation.startswith("Optional["):
        return [*union(annotation[len("Optional[") : -1]), "None"]
    if annotation.startswith("Union["):
        return [part.strip() for part in annotation[len("Union[") : -1].split(",")]
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(annotation + "|"):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "|" and depth == 0:
            parts.append(annotation[start:i].strip())
            start = i + 1
    return parts


def value_of(args: dict[str, Any], kind: str, name: str) -> Any:
    """What the argument will be: the recipe's, else TRL's default."""
    return args.get(name, arguments(kind)[name].default)


def rollout_problems(args: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """GRPO's arithmetic: groups must fill the generation batch, checkpoints must fall on its boundaries."""
    get = {name: value_of(args, "rlvr", name) for name in ROLLOUT_ARGUMENTS}
    if any(not isinstance(get[name], int | None) for name in ROLLOUT_ARGUMENTS):
        return  # the wrong type is reported already
    steps = get["steps_per_generation"] or get["gradient_accumulation_steps"]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    batch = get["generation_batch_size"] or get["per_device_train_batch_size"] * processes * steps
    group = get["num_generations"]
    if group < 2:
        yield "num_generations", f"({group}) must be at least 2: a group is compared with its own mean"
    elif batch % group:
        fitting = [n for n in range(2, batch + 1) if batch % n == 0]
        near = sorted(sorted(fitting, key=lambda n: abs(n - group))[:2])
        use = f"use {' or '.join(map(str, near))}" if near else "raise per_device_train_batch_size"
        yield "num_generations", f"({group}) must divide the batch ({batch} completions): {use}"
    period = max(1, get["num_iterations"] * steps // get["gradient_accumulation_steps"])
    every = args.get("save_steps")
    if isinstance(every, int) and every % period:
        lower, upper = every // period * period, math.ceil(every / period) * period
        use = f"{lower} or {upper}" if lower else f"{upper}"
        yield "save_steps", f"({every}) must be a multiple of {period} (steps between two generations): use {use}"


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
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield name, f"{kinds[kind][2]} has no such field{hint}"
        elif wrong := wrong_type(value, known[name].annotation):
            yield name, wrong
