"""Flips: questions that one side answers right and the other wrong."""

from typing import NamedTuple

import numpy as np

from cpt.comparison.groups import Group
from cpt.comparison.subject import Key

RIGHT = 0.5  # a question is answered right where the mean score over the seeds is above this


class Flip(NamedTuple):
    """One question; `before` and `after` are mean scores over the seeds, the completions those of the first seed."""

    key: Key
    row: str
    gained: bool  # wrong in the baseline, right here
    before: float
    after: float
    prompt: object
    expected: object
    baseline_answer: str
    answer: str


def flips(group: Group, baseline: Group) -> list[Flip]:
    """All flips, task by task, what was lost first."""
    found = []
    for key in baseline.shared:
        before, after = baseline.final[key].mean(0), group.final[key].mean(0)
        rows = sorted(baseline.subjects[0].answers[key])
        mine, theirs = group.subjects[0].answers[key], baseline.subjects[0].answers[key]
        flipped = np.flatnonzero((before > RIGHT) != (after > RIGHT))
        these = [
            Flip(
                key, rows[i], bool(after[i] > RIGHT), float(before[i]), float(after[i]), theirs[rows[i]]["prompt"],
                theirs[rows[i]]["answer"], theirs[rows[i]]["completion"], mine[rows[i]]["completion"],
            )
            for i in flipped
        ]  # fmt: skip
        found += sorted(these, key=lambda flip: flip.gained)
    return found
