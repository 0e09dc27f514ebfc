"""The catalogue of metrics of a stream: gates, intervals, the report and the documentation take all they know from here.

A new metric is an entry here, and the function of the same name in `cpt.evaluation.metrics`. No numpy here: recipes name
metrics in their gates.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MetricKind:
    """One metric.

    Attributes:
        formula: its formula in `R[t][i]`, the accuracy on task i after task t.
        about: what it is, in the report.
        reading: how to read it, in docs/report.md.
        better: which of two values is the better one. A gate is a minimum where it is `higher`, else a maximum.
        lowest: the low end of its scale; the high end is 1.
        least_tasks: of a stream in which it has a value.
    """

    name: str
    formula: str
    about: str
    reading: str
    better: Literal["higher", "lower"] = "higher"
    lowest: float = 0.0
    least_tasks: int = 1

    @property
    def phrase(self) -> str:
        return self.name.replace("_", " ")

    @property
    def title(self) -> str:
        return self.phrase[0].upper() + self.phrase[1:]

    @property
    def direction(self) -> Literal["max", "min"]:
        """What the limit of a gate is."""
        return "min" if self.better == "higher" else "max"


_KINDS = (
    MetricKind(
        "average_accuracy",
        "mean over i of `R[T][i]`",
        "of the final model, all tasks",
        "how good the final model is on all tasks",
    ),
    MetricKind(
        "learning_accuracy",
        "mean over i of `R[i][i]`",
        "of each task, right after it was trained",
        "how well each task was learnt, right after it was trained",
    ),
    MetricKind(
        "backward_transfer",
        "mean over i < T of `R[T][i] - R[i][i]`",
        "what later tasks did to earlier ones",
        "what later tasks did to earlier ones; negative values are losses",
        lowest=-1.0,
        least_tasks=2,
    ),
    MetricKind(
        "forward_transfer",
        "mean over i > 1 of `R[i-1][i] - R[0][i]`",
        "what earlier tasks did to later ones",
        "what earlier tasks did for later ones, before those were trained",
        lowest=-1.0,
        least_tasks=2,
    ),
    MetricKind(
        "forgetting",
        "mean over i < T of `max(R[l][i] for l from i to T-1) - R[T][i]`",
        "best accuracy minus the final one, earlier tasks",
        "how much was lost since the best row, counted from the task's own training; the last row is not part of the "
        "maximum, so this can be negative",
        better="lower",
        least_tasks=2,
    ),
    MetricKind(
        "worst_forgetting",
        "max over i < T of `max(R[l][i] for l from i to T-1) - R[T][i]`",
        "of the task that lost most",
        "how much the task that lost most has lost; a mean over tasks can hide it",
        better="lower",
        lowest=-1.0,
        least_tasks=2,
    ),
    MetricKind(
        "below_base",
        "max over i of `R[0][i] - R[T][i]`",
        "how far the worst task ends below the untouched model",
        "how far a task ends below the untouched model; negative if every task ends above it",
        better="lower",
        lowest=-1.0,
    ),
)
KINDS: dict[str, MetricKind] = {kind.name: kind for kind in _KINDS}
EXTREMES = ("worst_forgetting", "below_base")  # metrics of one task, chosen among all by its value
HELD_OUT_DROP = "held_out_drop"  # the gate that is no metric of the stream
GATES = (*KINDS, HELD_OUT_DROP)

# Gates on one task or one suite, as NAME/TASK and NAME/SUITE: which limit they are.
TASK_GATES: dict[str, Literal["max", "min"]] = {
    "accuracy": "min",
    "learning_accuracy": "min",
    "forgetting": "max",
    "below_base": "max",
}
SUITE_GATES: dict[str, Literal["max", "min"]] = {HELD_OUT_DROP: "max", "held_out": "min"}
CHANGES = (
    "backward_transfer",
    "forgetting",
    "worst_forgetting",
    "below_base",
    HELD_OUT_DROP,
)  # of one model to another


def direction_of_gate(name: str) -> Literal["max", "min"]:
    """What the limit of a built-in gate is: NAME, NAME/TASK or NAME/SUITE."""
    head, _, part = name.partition("/")
    if part:
        return (TASK_GATES | SUITE_GATES)[head]
    return "max" if name == HELD_OUT_DROP else KINDS[name].direction


def table() -> str:
    """The table of docs/report.md."""
    rows = [f"| `{each.name}` | {each.formula} | {each.better} | {each.reading} |" for each in _KINDS]
    return "\n".join(["| name | formula | better | how to read it |", "|---|---|---|---|", *rows])
