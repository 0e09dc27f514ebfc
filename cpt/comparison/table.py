"""A comparison as text for the terminal."""

from collections.abc import Sequence

from cpt.comparison.changes import CANNOT_TELL, Pair, TaskChange
from cpt.comparison.groups import Group
from cpt.comparison.inference import Estimate
from cpt.comparison.wording import sentence, title
from cpt.report.formatting import DASH, count, duration, score


def table(groups: Sequence[Group], baseline: Group, pairs: Sequence[Pair], notes: Sequence[str]) -> str:
    """The groups as a table, then a line for each verdict."""
    measures = list(baseline.measures)
    head = ["", "group", "seeds", *map(title, measures), "time", "tokens"]
    rows = []
    for number, group in enumerate(groups, start=1):
        cells = [brief(group.estimates[name]) for name in measures]
        cost = group.cost
        spent = (
            [duration(cost["seconds"]), count(cost["train_tokens"] + cost["rollout_tokens"])] if cost else [DASH] * 2
        )
        seeds = " ".join(str(seed) for seed in group.seeds if seed is not None) or DASH
        mark = "*" if group is baseline else ""
        rows.append([f"{number}{mark}", group.label, seeds, *cells, *spent])
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    lines.append(f"* baseline; [95 % intervals]; {sum(each.shape[1] for each in baseline.final.values())} questions")
    for pair in pairs:
        lines += ["", f"{pair.group.label}: {pair.verdict}: {sentence(pair)}", f"  covers {pair.covers}"]
        lines += [f"  {task_line(task)}" for task in pair.tasks if task.verdict != CANNOT_TELL]
        lost = sum(not flip.gained for flip in pair.flips)
        lines.append(f"  flips: {lost} right -> wrong, {len(pair.flips) - lost} wrong -> right")
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def brief(estimate: Estimate) -> str:
    return f"{score(estimate.value)} [{score(estimate.interval[0])}, {score(estimate.interval[1])}]"


def task_line(task: TaskChange) -> str:
    counts = "" if task.gained is None else f", {task.lost} lost and {task.gained} gained of {task.questions}"
    return f"{task.name} {task.verdict}: {brief(task.estimate)}, p {task.adjusted:.4f} (Holm){counts}"
