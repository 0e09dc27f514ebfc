"""What a class of a library takes, read from its installed source with `ast`: names, types, defaults, without importing it.

Importing TRL costs 12 s and vLLM as much; a typo in a recipe should cost a line and a tenth of a second.
"""

import ast
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cpt.errors import shown

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


@dataclass(frozen=True)
class Argument:
    """One field of a class: its annotation as written, and its default (UNKNOWN where it is not a literal)."""

    name: str
    annotation: str
    default: Any


UNKNOWN = object()


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


@cache
def popped_keywords(package: str, file: str, name: str) -> list[str]:
    """The keywords that a class's __init__ takes by `kwargs.pop("x", ...)`; private ones are left out."""
    tree = ast.parse((package_folder(package) / file).read_text(encoding="utf-8"))
    node = next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)
    init = next(each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")
    pops = [each for each in ast.walk(init) if isinstance(each, ast.Call) and ast.unparse(each.func) == "kwargs.pop"]
    return [each.args[0].value for each in pops if not each.args[0].value.startswith("_")]


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


@cache
def enumeration(package: str, file: str, name: str) -> tuple[str, ...]:
    """The values of an enumeration of words, read likewise."""
    tree = ast.parse((package_folder(package) / file).read_text(encoding="utf-8"))
    node = next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)
    return tuple(ast.literal_eval(each.value) for each in node.body if isinstance(each, ast.Assign))


TYPES = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string", "None": "null"}
CONTAINERS = {"list": (list, "a list"), "dict": (dict, "a map"), "tuple": (list, "a list")}


def wrong_type(value: Any, annotation: str) -> str | None:
    """What is wrong with `value` for an annotation such as `int | None`; None where it fits or cannot be told."""
    expected = []
    for option in union(annotation):
        head, _, inside = option.removesuffix("]").partition("[")
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
            if fits and head in ("list", "dict") and inside:
                return wrong_inside(value, inside if head == "list" else inside.partition(",")[2])
            expected.append(CONTAINERS[head][1])
        elif head == "Literal":
            choices = ast.literal_eval(f"({inside},)")
            fits = value in choices
            expected.append(f"one of {', '.join(map(str, choices))}")
        else:  # an enumeration or a class: the config itself will say
            return None
        if fits:
            return None
    return f"must be {' or '.join(expected)}, not {shown(value)}"


def wrong_inside(value: list | dict, annotation: str) -> str | None:
    """The same for what a list or a map holds; the first wrong element is named by its place."""
    elements = value.items() if isinstance(value, dict) else enumerate(value)
    problems = ((place, wrong_type(each, annotation.strip())) for place, each in elements)
    return next((f"{place}: {wrong}" for place, wrong in problems if wrong), None)


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
