"""Test-time reinforcement learning (2504.16084): the reward is agreement with the majority, and no row's answer is read.

The answers that a prompt's completions give, as the task's reward reads them (exact: what it compares; choice: the letter;
math: the last expression as written; f1: the words), are counted over the whole group; the answer of most, the first of those
that are even, stands in the row as its answer, and the reward compares every completion with it. A completion without an
answer has no vote; a group without any gets 0. The paper votes over 64 answers and trains on 32 of them: here the
`num_generations` completions that are trained on vote, over all processes, between which TRL may split a group.

Nothing stops the majority from being wrong, or one and the same for all prompts, or the model from giving no answer at all:
the alarm looks for the last two.
"""

from collections import Counter

from datasets import Dataset

from cpt import ranks
from cpt.context import Services, Stage
from cpt.data.rows import pack, unpack

READ = ("id", "answer_markers", "task")  # all of a row, beside its prompt, that training sees
UNANIMOUS = 0.9  # mean share of the majority from which it is near 1
LOOKED_AT = 32  # prompts, the last ones, that the alarm compares
FEWEST = 8  # of them, before it says anything


def without_answers(rows: Dataset) -> Dataset:
    """The rows, with nothing in them that the answer could be known from."""
    kept = [{name: row[name] for name in READ if name in row} for row in unpack(rows["prompt"], rows["row"])]
    return rows.remove_columns("row").add_column("row", [pack(row) for row in kept])


def majority(votes: list[str | None]) -> tuple[str | None, float, int]:
    """(the answer of most or None, its share of all votes and abstentions, how many different answers there are)."""
    counted = Counter(vote for vote in votes if vote is not None)
    if not counted:
        return None, 0.0, 0
    label, number = counted.most_common(1)[0]
    return label, number / len(votes), len(counted)


class Vote:
    """The majorities of each generation as its labels: scores by them, and warns once where they collapse.

    `measured` is what the last generation looked like, over all processes.
    """

    def __init__(self, stage: Stage, services: Services, group: int):
        self.stage, self.services, self.group = stage, services, group
        self.measured: dict[str, float] = {}
        self.last: dict[str, tuple[str | None, float]] = {}  # {row id: label, share} of the prompts last voted on
        self.has_warned = False

    def score(self, texts: list[str], rows: list[dict], finished: list[bool]) -> list[float | None]:
        """The reward of each of this process's completions, scored by its group's majority (a collective)."""
        votes = ranks.gather(self.services.read(texts, rows, finished))
        ids = ranks.gather([row["id"] for row in rows])[:: self.group]
        majorities = [majority(votes[first : first + self.group]) for first in range(0, len(votes), self.group)]
        self._remember(ids, majorities)
        first = ranks.state().process_index * len(rows)
        labels = [majorities[(first + place) // self.group][0] for place in range(len(rows))]
        voted = [place for place, label in enumerate(labels) if label is not None]
        values: list[float | None] = [0.0] * len(rows)
        labelled = [rows[place] | {"answer": labels[place]} for place in voted]
        scores = self.services.score([texts[place] for place in voted], labelled, [finished[place] for place in voted])
        for place, value in zip(voted, scores, strict=True):
            values[place] = value
        return values

    def _remember(self, ids: list[str], majorities: list[tuple[str | None, float, int]]) -> None:
        labels, shares, numbers = zip(*majorities, strict=True)
        self.measured = {
            "ttrl/majority_share": sum(shares) / len(majorities),
            "ttrl/distinct_answers": sum(numbers) / len(majorities),
            "ttrl/distinct_majorities": len({*labels} - {None}) / len(majorities),
        }
        for name, label, share in zip(ids, labels, shares, strict=True):
            self.last.pop(name, None)
            self.last[name] = label, share
        self.last = dict(list(self.last.items())[-LOOKED_AT:])
        self._look()

    def _look(self) -> None:
        """Warn, once, where the majorities are sure and one and the same, or where there are none."""
        count, share = len(self.last), sum(share for _, share in self.last.values()) / len(self.last)
        if self.has_warned or count < FEWEST:
            return
        label, number = Counter(label for label, _ in self.last.values()).most_common(1)[0]
        if number / count < self.stage.spec.ttrl.alarm or (label is not None and share < UNANIMOUS):
            return
        self.has_warned = True
        reason = (
            f"no completion of {number} of the last {count} prompts gives an answer"
            if label is None
            else f"the majorities hold {share:.0%} of the votes, and {number} of the last {count} prompts have one answer, "
            f"{label[:60]!r}"
        )
        self.services.screen.warn(
            f"{self.stage.task.name} {self.stage.name}: ttrl has collapsed: {reason}: the reward teaches nothing more; "
            "stop, and lower the learning rate or the steps, or add a KL (`beta` in `args`)"
        )
