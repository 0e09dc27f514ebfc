"""What the report of a comparison shows, as plain values that both templates read."""

import json
from collections import Counter

from cpt.comparison.changes import BETTER, CANNOT_TELL, WORSE, Change, Pair, TaskChange
from cpt.comparison.comparable import name_of
from cpt.comparison.compare import Comparison
from cpt.comparison.flips import Flip
from cpt.comparison.groups import AVERAGE, FORGETTING, LEARNING, Group
from cpt.comparison.plots import Dot, difference_bar, plane
from cpt.comparison.wording import p_value, sentence, tested, title
from cpt.errors import cut
from cpt.report.examples import LONGEST, NOTHING
from cpt.report.formatting import compact, count, duration, interval, score, signed
from cpt.sizes import many

BADGES = {BETTER: "✓", WORSE: "✕", CANNOT_TELL: "?"}
KINDS = {BETTER: "ship", WORSE: "hold", CANNOT_TELL: "ungated"}
CHIPS = {BETTER: "good", WORSE: "bad", CANNOT_TELL: "plain-chip"}
SHOWN = 5  # flips of one task, in each direction


def view(comparison: Comparison) -> dict:
    """Everything the templates need."""
    numbers = {id(group): place for place, group in enumerate(comparison.groups, start=1)}
    runs = sum(len(group.subjects) for group in comparison.groups)
    return {
        "title": " against ".join([", ".join(g.label for g in others(comparison)), comparison.baseline.label])
        if comparison.pairs and len(comparison.pairs) < 4
        else f"{many(len(comparison.groups), 'group')} compared",
        "baseline": comparison.baseline.label,
        "about": f"{many(runs, 'run')}, {many(len(comparison.groups), 'group')}",
        "tasks": [name_of(key) for key in comparison.baseline.shared],
        "questions": sum(scores.shape[1] for scores in comparison.baseline.final.values()),
        "measures": [title(name) for name in comparison.measures],
        "groups": [group_row(group, numbers[id(group)], comparison) for group in comparison.groups],
        "has_cost": any(group.cost for group in comparison.groups),
        "pairs": [pair_view(pair, numbers[id(pair.group)], comparison) for pair in comparison.pairs],
        "tally": tally(comparison),
        "charts": charts(comparison, numbers),
        "notes": comparison.notes,
    }


def others(comparison: Comparison) -> list[Group]:
    return [pair.group for pair in comparison.pairs]


def tally(comparison: Comparison) -> str:
    """`2 better, 1 cannot tell`."""
    counts = Counter(pair.verdict for pair in comparison.pairs)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in (BETTER, WORSE, CANNOT_TELL) if counts[verdict])


def group_row(group: Group, number: int, comparison: Comparison) -> dict:
    cells = []
    for name in comparison.measures:
        estimate = group.estimates[name]
        seeds = [score(value) for value in estimate.seeds] if len(estimate.seeds) > 1 else []
        cells.append({"value": score(estimate.value), "interval": interval(estimate.interval), "seeds": seeds})
    cost = group.cost
    return {
        "number": number,
        "label": group.label,
        "is_baseline": group is comparison.baseline,
        "seeds": ", ".join(str(seed) for seed in group.seeds if seed is not None) or "–",
        "folders": [str(subject.folder) for subject in group.subjects],
        "cells": cells,
        "time": duration(cost["seconds"]) if cost else "–",
        "tokens": count(cost["train_tokens"] + cost["rollout_tokens"]) if cost else "–",
    }


def pair_view(pair: Pair, number: int, comparison: Comparison) -> dict:
    reach = max(abs(end) for change in (*pair.changes, *pair.tasks) for end in change.estimate.interval) or 1.0
    return {
        "number": number,
        "label": pair.group.label,
        "baseline": comparison.baseline.label,
        "verdict": pair.verdict,
        "badge": BADGES[pair.verdict],
        "kind": KINDS[pair.verdict],
        "chip": CHIPS[pair.verdict],
        "headline": pair.verdict[0].upper() + pair.verdict[1:],
        "text": sentence(pair),
        "covers": pair.covers,
        "reach": score(reach),
        "changes": [change_row(change, title(change.name), reach) for change in pair.changes],
        "tasks": [task_row(task, reach) for task in pair.tasks],
        "flips": flip_groups(pair),
    }


def change_row(change: Change, name: str, reach: float) -> dict:
    estimate = change.estimate
    return {
        "name": name,
        "value": signed(estimate.value),
        "interval": interval(estimate.interval),
        "bar": difference_bar(estimate.value, estimate.interval, reach, change.verdict),
        "p": p_value(estimate.p),
        "adjusted": p_value(change.adjusted),
        "verdict": change.verdict,
        "chip": CHIPS[change.verdict],
        "seeds": ", ".join(signed(each) for each in estimate.seeds),
    }


def task_row(task: TaskChange, reach: float) -> dict:
    return change_row(task, task.name, reach) | {
        "questions": task.questions,
        "gained": "–" if task.gained is None else task.gained,
        "lost": "–" if task.lost is None else task.lost,
        "test": tested(task),
    }


def flip_groups(pair: Pair) -> list[dict]:
    """The flips of each task that has any, the first few of each direction."""
    by_task: dict[str, list[Flip]] = {}
    for flip in pair.flips:
        by_task.setdefault(name_of(flip.key), []).append(flip)
    made = []
    for task, these in by_task.items():
        lost, gained = ([flip for flip in these if flip.gained is way] for way in (False, True))
        shown = [*lost[:SHOWN], *gained[:SHOWN]]
        made.append(
            {"task": task, "lost": len(lost), "gained": len(gained), "examples": [example(flip) for flip in shown]}
        )
    return made


def example(flip: Flip) -> dict:
    return {
        "way": "wrong → right" if flip.gained else "right → wrong",
        "gained": flip.gained,
        "row": flip.row,
        "asked": text_of(flip.prompt),
        "expected": "" if flip.expected is None else text_of(flip.expected),
        "before": text_of(flip.baseline_answer) or NOTHING,
        "now": text_of(flip.answer) or NOTHING,
        "scores": f"{compact(flip.before)} → {compact(flip.after)}",
    }


def text_of(value: object) -> str:
    """Text as it is; of a multiple choice (a list) one choice a line."""
    lines = value if isinstance(value, list) else [value]
    return cut(
        "\n".join(each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in lines), LONGEST
    )


def charts(comparison: Comparison, numbers: dict[int, int]) -> list[dict]:
    """Forgetting against learning and against cost, and average accuracy against cost; none without a stream."""

    def dots(x: str, y: str) -> list[Dot]:
        made = []
        for group in comparison.groups:
            (across, at), (along, up) = axis(group, x), axis(group, y)
            if at is not None and up is not None:
                first = group is comparison.baseline
                made.append(Dot(numbers[id(group)], group.label, at, up, across, along, first))
        return made

    wanted = [(LEARNING, FORGETTING), ("tokens", FORGETTING), ("tokens", AVERAGE)]
    made = []
    for x, y in wanted:
        if all(name == "tokens" or name in comparison.measures for name in (x, y)) and (these := dots(x, y)):
            names = [axis_name(x), axis_name(y)]
            name = f"{names[1]} against {names[0]}"
            made.append({"title": name[0].upper() + name[1:], "svg": plane(name, *names, these)})
    return made


def axis(group: Group, name: str) -> tuple[tuple[float, float] | None, float | None]:
    if name == "tokens":
        cost = group.cost
        return None, None if cost is None else cost["train_tokens"] + cost["rollout_tokens"]
    estimate = group.estimates.get(name)
    return (None, None) if estimate is None else (estimate.interval, estimate.value)


def axis_name(name: str) -> str:
    return "tokens trained on and generated" if name == "tokens" else title(name)
