"""A difference between a group and the baseline, and what it says: better, worse, or cannot tell."""

from dataclasses import dataclass, field

from cpt.comparison.flips import Flip
from cpt.comparison.groups import Group
from cpt.comparison.inference import Estimate
from cpt.comparison.subject import Key

ALPHA = 0.05
BETTER, WORSE, CANNOT_TELL = "better", "worse", "cannot tell"


@dataclass(frozen=True)
class Change:
    """A difference between a group and the baseline. `adjusted` is its p after Holm's correction in its family."""

    name: str
    estimate: Estimate
    adjusted: float
    lower_is_better: bool = False

    @property
    def verdict(self) -> str:
        """Both must say it: the adjusted test, and the interval."""
        low, high = self.estimate.interval
        if self.adjusted > ALPHA or low <= 0 <= high:
            return CANNOT_TELL
        return BETTER if (self.estimate.value > 0) != self.lower_is_better else WORSE


@dataclass(frozen=True)
class TaskChange(Change):
    """The difference on one task at the end. `test` is `mcnemar` or `permutation`; of McNemar's, how many went which way."""

    key: Key = (None, "")
    questions: int = 0
    test: str = "mcnemar"
    gained: int | None = None
    lost: int | None = None


@dataclass(frozen=True)
class Pair:
    """A group against the baseline. The first of `changes` decides the verdict."""

    group: Group
    baseline: Group
    changes: list[Change]
    tasks: list[TaskChange]
    flips: list[Flip] = field(repr=False)
    covers: str

    @property
    def verdict(self) -> str:
        return self.changes[0].verdict

    @property
    def others(self) -> list[Change]:
        """What else is better or worse."""
        return [change for change in self.changes[1:] if change.verdict != CANNOT_TELL]
