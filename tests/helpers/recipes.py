"""Small recipes on the built-in toy model, for tests that run the command line."""

import copy
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cpt.recipe import RecipeErrors, load

COMMON = {"bf16": False, "gradient_checkpointing": False, "learning_rate": 1e-3, "max_steps": 10, "logging_steps": 1}
COMMON |= {"lr_scheduler_type": "constant", "save_steps": 4, "per_device_train_batch_size": 8}
ARGS = {
    "sft": COMMON,
    "dpo": COMMON | {"max_length": 64},
    "rlvr": COMMON | {"per_device_train_batch_size": 16, "num_generations": 4, "max_completion_length": 12},
}
ARGS["rejection"] = COMMON | {"max_steps": 6}
ARGS["self-distillation"] = ARGS["distill"] = COMMON | {"max_completion_length": 12}
ARGS["rlvr-uneven"] = ARGS["rlvr"] | {"gradient_accumulation_steps": 2, "steps_per_generation": 3, "save_steps": 3}
ARGS["rlvr-two-iterations"] = ARGS["rlvr"] | {"num_iterations": 2, "beta": 0.01}


BESIDE_ARGS = {
    "dpo": {"pairs": {"prompts": 64, "samples": 4}},
    "rejection": {"rounds": 2, "samples": {"prompts": 64, "samples": 4}},
    "self-distillation": {"template": "copy{demonstration}"},  # all that the built-in toy model can do with one
    "distill": {"teacher": "base"},
}


def stage(name: str) -> dict:
    kind = name if name in BESIDE_ARGS else name.split("-")[0]
    return {"kind": kind, "args": ARGS[name]} | BESIDE_ARGS.get(kind, {})


def recipe(*stages: str, tasks: tuple[str, ...] = ("reverse", "caesar"), evaluate: int = 20) -> dict:
    """A recipe as plain data: the stages in each task."""
    stream = [
        {
            "task": task,
            "data": {"source": "procedural", "name": task, "train": 200, "eval": evaluate},
            "reward": "exact",
            "stages": [stage(name) for name in stages],
        }
        for task in tasks
    ]
    evaluation = {"suites": [], "max_completion_length": 12}
    return copy.deepcopy({"name": "test", "model": {"path": "tiny"}, "stream": stream, "evaluation": evaluation})


def short(*stages: str, steps: int = 3, **more) -> dict:
    """A recipe whose stages take a few steps."""
    content = recipe(*stages, **more)
    for task in content["stream"]:
        for stage in task["stages"]:
            stage["args"] = stage["args"] | {"max_steps": steps}
    return content


RECIPES = {name: recipe(name) for name in ARGS} | {"mixed": recipe("sft", "rlvr", tasks=("reverse",))}


def write_recipe(file: Path, content: dict) -> Path:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    return file


def mistakes(folder: Path, content: dict) -> list[str]:
    """The lines that loading the recipe, which must be wrong, is refused with."""
    with pytest.raises(RecipeErrors) as found:
        load(write_recipe(folder / "recipe.yaml", content))
    return str(found.value).splitlines()


def plain_rows(number: int, first: int = 0) -> list[dict]:
    strings = [f"{a}{b}cde" for a in "abcdefghij" for b in "abcdefghij"]
    return [{"prompt": f"reverse{text}=", "answer": text[::-1]} for text in strings[first : first + number]]


def rows_task(folder, rows, evaluation, kind="rlvr", **more) -> dict:
    """A recipe of one task on JSON lines."""
    content = recipe(kind, tasks=("reverse",))
    for name, made in (("train", rows), ("eval", evaluation)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    content["stream"][0] |= {"data": {"source": "jsonl", "train": "train.jsonl", "eval": "eval.jsonl"}} | more
    content["stream"][0]["stages"][0]["args"]["per_device_train_batch_size"] = 4  # one prompt is enough for a step
    return content
