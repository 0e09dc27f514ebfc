"""One thing to compare: a run of cpt, read from its directory, or a model that lm-eval evaluated, from its sample logs."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

Key = tuple[str | None, str]  # suite (None for a task of the stream) and task
NOT_TRAINED = ("description", "seed", "alarms")  # keys of a recipe that do not tell two recipes apart
NOT_ASKED = ("gates", "metrics")  # the same of its `evaluation`


@dataclass(frozen=True)
class Subject:
    """A run, or a model that was never in a stream.

    Attributes:
        source: `cpt` or `lm-eval`.
        name: the recipe's name, or the folder's.
        seed: None where nothing was trained here.
        recipe: the resolved recipe; empty of lm-eval.
        same: two subjects in which this is equal are seeds of one recipe.
        tasks: the stream's, in order.
        answers: {key: {row: the last point's greedy answer}}.
        scores: {key: (points, n)}: the questions in the order of their sorted row ids.
        conditions: {what: how every question was answered}.
        task_conditions: the same for one task alone.
        cost: `cost` of results.json.
        notes: what the reader should know.
    """

    folder: Path
    source: str
    name: str
    seed: int | None
    recipe: dict[str, Any] = field(repr=False)
    same: str = field(repr=False)
    tasks: tuple[str, ...]
    answers: dict[Key, dict[str, dict]] = field(repr=False)
    scores: dict[Key, np.ndarray] = field(repr=False)
    conditions: dict[str, Any] = field(repr=False)
    task_conditions: dict[Key, dict[str, Any]] = field(repr=False)
    cost: dict[str, Any] | None = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def suites(self) -> list[str]:
        return list(dict.fromkeys(suite for suite, _ in self.scores if suite is not None))

    @cached_property
    def questions(self) -> dict[Key, dict[str, str]]:
        """{key: {row: what was asked, and the answer that is right}}."""
        return {
            key: {row: json.dumps([line["prompt"], line["answer"]], sort_keys=True) for row, line in lines.items()}
            for key, lines in self.answers.items()
        }


def trained(recipe: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe decides the weights and the questions, but for the seed."""
    plain = {name: value for name, value in recipe.items() if name not in NOT_TRAINED}
    if isinstance(evaluation := plain.get("evaluation"), dict):
        plain["evaluation"] = {name: value for name, value in evaluation.items() if name not in NOT_ASKED}
    return plain
