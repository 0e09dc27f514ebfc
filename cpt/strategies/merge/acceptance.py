"""Which of several merges is taken: the best on validation rows, where it breaks no gate that the unmerged model keeps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cpt.evaluation import metrics
from cpt.evaluation.gates import direction_of
from cpt.evaluation.limits import bound, keeps

Accuracies = Mapping[str, float]  # of the tasks so far, in their order
DIGITS = 9  # means that differ by rounding alone are equal


def choose(candidates: Sequence[Accuracies], rows: Sequence[Accuracies], gates: Mapping[str, Any]) -> int:
    """The place of the candidate with the highest mean accuracy over the tasks; the last of equals.

    `candidates` begin with the unmerged model, and go on towards the old one; `rows` are the accuracies that the points of
    the earlier tasks were left with. A candidate that breaks a gate which the unmerged model keeps is not taken. Of equals
    the one nearest to the old model keeps best what nobody asks (docs/strategies.md has the numbers).
    """
    broken = [set(broken_gates(each, rows, gates)) for each in candidates]
    allowed = [place for place, each in enumerate(broken) if each <= broken[0]]
    return max(allowed, key=lambda place: (round(mean(candidates[place]), DIGITS), place))


def broken_gates(candidate: Accuracies, rows: Sequence[Accuracies], gates: Mapping[str, Any]) -> list[str]:
    """The gates of the recipe that the stream would fail if it ended with this candidate, by the values on validation."""
    R = matrix([*rows, candidate])
    values = {name: metrics.METRICS[name](R) for name, gate in gates.items() if decides(gate) and is_measured(name, R)}
    return [
        name
        for name, value in values.items()
        if value is not None and not keeps(float(value), bound_of(name, gates[name]), direction_of(name))
    ]


def decides(gate: Any) -> bool:
    """Whether anything follows from a gate."""
    return gate.tier != "tracked"


def bound_of(name: str, gate: Any) -> float:
    return bound(gate.limit, gate.rule, direction_of(name))


def is_measured(name: str, R: np.ndarray) -> bool:
    """Whether validation rows can judge a gate: a metric of what tasks were once they had been trained."""
    parts = metrics.parts(R, metrics.METRICS[name]) if name in metrics.METRICS else []
    return bool(parts) and all(row > task and (minus is None or minus > task) for task, row, minus in parts)


def matrix(rows: Sequence[Accuracies]) -> np.ndarray:
    """(t+1, t), as `evaluation.metrics` wants it. What is above the diagonal was not asked, and is 0: no gate looks there."""
    tasks = list(rows[-1])
    R = np.zeros((len(tasks) + 1, len(tasks)))
    for place, row in enumerate(rows, start=1):
        R[place, : len(row)] = [row[task] for task in tasks[: len(row)]]
    return R


def mean(accuracies: Accuracies) -> float:
    return sum(accuracies.values()) / len(accuracies)
