"""A comparison in words: names of measures, sentences of verdicts, p values."""

from cpt.comparison.changes import CANNOT_TELL, Change, Pair, TaskChange
from cpt.comparison.groups import AVERAGE, FORGETTING, HELD_OUT, LEARNING
from cpt.report.formatting import interval, listed, score, signed

TITLES = {
    AVERAGE: "average accuracy",
    LEARNING: "learning",
    FORGETTING: "forgetting",
    HELD_OUT: "mean over tasks",
}


def title(measure: str) -> str:
    """`held_out: general` is called `general (held out)`."""
    prefix = f"{HELD_OUT}: "
    return TITLES.get(measure) or f"{measure.removeprefix(prefix)} (held out)"


def p_value(p: float) -> str:
    """`.004`, or `< .0001`."""
    if p < 1e-4:
        return "< .0001"
    return f"{p:.4f}".lstrip("0") if p < 0.01 else f"{p:.2f}".lstrip("0") if p < 0.995 else "1"


def amount(change: Change) -> str:
    """`average accuracy +0.031 [0.012 to 0.050]`."""
    name = title(change.name) if not isinstance(change, TaskChange) else change.name
    return f"{name} {signed(change.estimate.value)} [{interval(change.estimate.interval)}]"


def sentence(pair: Pair) -> str:
    """The verdict's reason, and what else is better or worse."""
    first = pair.changes[0]
    text = f"{amount(first)}, p {equals(first.adjusted)}"
    if first.verdict == CANNOT_TELL:
        half = (first.estimate.interval[1] - first.estimate.interval[0]) / 2
        text += f"; with this many questions, differences below about {score(half)} cannot be told from none"
    for verdict in ("worse", "better"):
        changes = [amount(change) for change in pair.others if change.verdict == verdict]
        text += f"; {verdict}: {listed(changes)}" if changes else ""
    tasks = [amount(task) for task in pair.tasks if task.verdict == "worse"]
    return text + (f"; tasks that are worse: {listed(tasks)}" if tasks else "")


def equals(p: float) -> str:
    return p_value(p) if p < 1e-4 else f"= {p_value(p)}"


def tested(task: TaskChange) -> str:
    return "exact McNemar" if task.test == "mcnemar" else "permutation"
