"""Recipes and values that Python gave, as nodes: what YAML can hold, within the same bounds.

A path stands for its text, and a number of NumPy's or torch's for Python's own.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

from cpt.errors import Problem, RecipeErrors, shown
from cpt.recipe.yaml_reader import DEEPEST, MOST_NODES, TOO_DEEP, Node

PYTHON = "Python"  # how messages name the place of what Python gave


def from_python(value: Any, key: str = "") -> Node:
    """The value at the dotted `key` as nodes.

    Raises:
        RecipeErrors: what no recipe holds: another type, a number that is not finite or beyond 64 bits, a key that is not
            text, or more than the bounds of a YAML file allow.
    """
    problems: list[Problem] = []
    root = _Builder(problems).build(value, (key,) if key else ())
    if problems:
        raise RecipeErrors(problems)
    return root


class _Builder:
    def __init__(self, problems: list[Problem]):
        self.problems, self.count = problems, 0

    def build(self, value: Any, path: tuple[str, ...]) -> Node:
        self.count += 1
        if len(path) > DEEPEST:
            raise RecipeErrors([Problem(PYTHON, None, ".".join(path[:3]), TOO_DEEP)])
        if self.count > MOST_NODES:
            raise RecipeErrors(
                [Problem(PYTHON, None, "", f"holds more than {MOST_NODES:,} values, which no recipe does")]
            )
        if isinstance(value, Mapping):
            items = ((self.name(key, path), each) for key, each in value.items())
            return Node({name: self.build(each, (*path, name)) for name, each in items}, PYTHON)
        if isinstance(value, list | tuple):
            return Node([self.build(each, (*path, str(place))) for place, each in enumerate(value)], PYTHON)
        return Node(self.scalar(value, path), PYTHON)

    def name(self, key: Any, path: tuple[str, ...]) -> str:
        if not isinstance(key, str):
            self.note(path, f"the key {shown(key)} must be text, not {type(key).__name__}")
        return str(key)

    def scalar(self, value: Any, path: tuple[str, ...]) -> Any:
        value = plain_scalar(value)
        if isinstance(value, float) and not math.isfinite(value):
            self.note(path, f"must be a finite number, not {value}")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            self.note(path, "is beyond 64 bits, which no number of a recipe is")
        elif not isinstance(value, str | int | float | bool | None):
            self.note(
                path,
                f"{shown(value)} is a {type(value).__name__}: a recipe holds texts, numbers, true, false, None, lists and "
                "dictionaries",
            )
        else:
            return value
        return None

    def note(self, path: tuple[str, ...], message: str) -> None:
        self.problems.append(Problem(PYTHON, None, ".".join(path), message))


def plain_scalar(value: Any) -> Any:
    """A path as text, a NumPy or torch number as Python's own; the rest as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    if type(value) in (str, int, float, bool):
        return value
    for kind in (bool, int, float, str):  # of an enumeration, the plain value
        if isinstance(value, kind):
            return kind(value)
    return value
