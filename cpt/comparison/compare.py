"""The comparison: groups, and for each pair with the baseline the differences, tests, one verdict, and the flips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cpt.comparison.changes import Change, Pair, TaskChange
from cpt.comparison.comparable import check_comparable, name_of, shared_keys
from cpt.comparison.flips import flips
from cpt.comparison.groups import LOWER_IS_BETTER, Group, grouped
from cpt.comparison.inference import Estimate, difference, holm, mcnemar
from cpt.comparison.reading import read_subjects
from cpt.comparison.subject import Key
from cpt.comparison.table import table
from cpt.errors import UserError
from cpt.evaluation.statistics import is_binary

NONE: Mapping[Path, str] = MappingProxyType({})


@dataclass(frozen=True)
class Comparison:
    """All groups, and a pair for each but the baseline."""

    groups: list[Group]
    baseline: Group
    pairs: list[Pair]
    notes: list[str]

    @property
    def measures(self) -> list[str]:
        """Names of what is compared; the first one decides the verdicts."""
        return list(self.baseline.measures)

    def __str__(self) -> str:
        return table(self.groups, self.baseline, self.pairs, self.notes)


def compare_folders(
    folders: Sequence[Path], baseline: Path | None = None, labels: Mapping[Path, str] = NONE
) -> Comparison:
    """Compare runs with the first of them, or with `baseline`, which need not be among them.

    Raises:
        UserError: a line for each run that cannot be read, or cannot be compared, and why.
    """
    folders = list(folders)
    if baseline is not None and baseline.resolve() not in [folder.resolve() for folder in folders]:
        folders.insert(0, baseline)
    if len(folders) < 2:
        raise UserError("a comparison needs at least two runs: name another one, or a --baseline")
    subjects = read_subjects(folders)
    place = 0 if baseline is None else [folder.resolve() for folder in folders].index(baseline.resolve())
    reference = subjects[place]
    notes = check_comparable(subjects, reference)
    groups = grouped(subjects, shared_keys([reference, *subjects]), labels)
    first = next(group for group in groups if reference in group.subjects)
    pairs = paired([group for group in groups if group is not first], first)
    if not pairs:
        notes.append("all runs are seeds of one recipe: there is nothing to compare them with")
    return Comparison(groups, first, pairs, notes)


def paired(groups: Sequence[Group], baseline: Group) -> list[Pair]:
    """The pairs. Holm's correction is made over the verdicts of all pairs; over all other measures; and over all tasks."""
    found = [changes_of(group, baseline) for group in groups]
    verdicts = holm([estimates[0][1].p for estimates, _ in found])
    others = holm([estimate.p for estimates, _ in found for _, estimate in estimates[1:]])
    by_task = holm([change.estimate.p for _, tasks in found for change in tasks])
    pairs = []
    for group, (estimates, tasks), verdict in zip(groups, found, verdicts, strict=True):
        mine, others = [verdict, *others[: len(estimates) - 1]], others[len(estimates) - 1 :]
        of_tasks, by_task = by_task[: len(tasks)], by_task[len(tasks) :]
        changes = [
            Change(name, estimate, p, name in LOWER_IS_BETTER)
            for (name, estimate), p in zip(estimates, mine, strict=True)
        ]
        tasks = [TaskChange(**vars(task) | {"adjusted": p}) for task, p in zip(tasks, of_tasks, strict=True)]
        pairs.append(Pair(group, baseline, changes, tasks, flips(group, baseline), covers(group, baseline)))
    return pairs


def seed_pairs(group: Group, baseline: Group) -> list[tuple[int, int]]:
    """The places of equal seeds; none where a group has one seed, or the two have not the same seeds."""
    if len(group.subjects) < 2 or None in group.seeds or set(group.seeds) != set(baseline.seeds):
        return []
    return [(i, baseline.seeds.index(seed)) for i, seed in enumerate(group.seeds)]


def changes_of(group: Group, baseline: Group) -> tuple[list[tuple[str, Estimate]], list[TaskChange]]:
    """(measure, difference) of all measures that have the same strata, and the difference on each task; nothing adjusted."""
    pairs = seed_pairs(group, baseline)
    estimates = []
    for name, measure in baseline.measures.items():
        mine, order = group.measures[name], list(measure.values)
        if set(order) == set(mine.values):
            estimates.append((name, difference(mine.strata(order), measure.strata(order), pairs)))
    tasks = [task_change(key, group.final[key], baseline.final[key], pairs) for key in baseline.shared]
    return estimates, tasks


def task_change(key: Key, mine: np.ndarray, theirs: np.ndarray, pairs: Sequence[tuple[int, int]]) -> TaskChange:
    estimate = difference([mine], [theirs], pairs)
    name, questions = name_of(key), mine.shape[1]
    if len(mine) == len(theirs) == 1 and is_binary(mine) and is_binary(theirs):
        gained, lost = int((mine > theirs).sum()), int((mine < theirs).sum())
        exact = Estimate(estimate.value, estimate.interval, estimate.seeds, mcnemar(gained, lost))
        return TaskChange(name, exact, 1.0, False, key, questions, "mcnemar", gained, lost)
    return TaskChange(name, estimate, 1.0, False, key, questions, "permutation")


def covers(group: Group, baseline: Group) -> str:
    """What the intervals and tests of a pair speak of."""
    mine, theirs = len(group.subjects), len(baseline.subjects)
    if mine == theirs == 1:
        return "other questions; not other seeds, of which there is one each: it is about these two models"
    if seed_pairs(group, baseline):
        return f"other questions and other seeds ({mine} seeds each, paired by seed)"
    return f"other questions and other seeds ({mine} against {theirs})"
