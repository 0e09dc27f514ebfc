"""Runs as groups: seeds of one recipe belong together. What is measured of a group, and how it is called."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cpt.comparison.inference import Estimate, difference, group_estimate
from cpt.comparison.subject import Key, Subject, trained
from cpt.errors import UserError
from cpt.evaluation.metrics import best_rows

AVERAGE, LEARNING, FORGETTING, HELD_OUT = "average_accuracy", "learning_accuracy", "forgetting", "held_out"
LOWER_IS_BETTER = (FORGETTING,)
MOST_DIFFERENCES = 3  # settings that a label names


@dataclass(frozen=True)
class Measure:
    """What a measure is the mean of: {stratum: (S, n)}, less `minus` where it is a loss."""

    values: dict[Any, np.ndarray]
    minus: dict[Any, np.ndarray] | None = None

    def strata(self, order: Sequence[Any]) -> list[np.ndarray]:
        return [self.values[key] - (0 if self.minus is None else self.minus[key]) for key in order]

    def estimate(self) -> Estimate:
        order = list(self.values)
        if self.minus is None:
            return group_estimate(self.strata(order))
        seeds = len(self.values[order[0]])
        pairs = [(seed, seed) for seed in range(seeds)] if seeds > 1 else []
        found = difference([self.values[key] for key in order], [self.minus[key] for key in order], pairs)
        return Estimate(found.value, found.interval, found.seeds or (found.value,))


@dataclass(frozen=True)
class Group:
    """Seeds of one recipe; or one model that was never in a stream."""

    label: str
    subjects: tuple[Subject, ...] = field(repr=False)
    shared: tuple[Key, ...] = field(repr=False)

    @property
    def seeds(self) -> list[int | None]:
        return [subject.seed for subject in self.subjects]

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.subjects[0].tasks

    @cached_property
    def final(self) -> dict[Key, np.ndarray]:
        """{key: (S, n)}: scores of the last point."""
        return {key: np.stack([subject.scores[key][-1] for subject in self.subjects]) for key in self.shared}

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """The measures that all groups share by name; the first one decides the verdict."""
        tasks = [key for key in self.shared if key[0] is None]
        found = {}
        if tasks:
            found[AVERAGE] = Measure({key: self.final[key] for key in tasks})
            found[LEARNING] = Measure({key: self.at(key, self.learnt(key)) for key in tasks})
        if len(tasks) > 1:
            found[FORGETTING] = self.forgetting(tasks)
        suites = [key for key in self.shared if key[0] is not None]
        if not tasks:
            found[HELD_OUT] = Measure({key: self.final[key] for key in suites})
        names = list(dict.fromkeys(suite for suite, _ in suites))
        for name in names if tasks or len(names) > 1 else ():
            answered = [self.final[key] for key in suites if key[0] == name]
            found[f"{HELD_OUT}: {name}"] = Measure({name: np.hstack(answered)})
        return found

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        return {name: measure.estimate() for name, measure in self.measures.items()}

    def learnt(self, key: Key) -> list[int]:
        """The row in which the task was just trained, for each seed."""
        return [subject.tasks.index(key[1]) + 1 for subject in self.subjects]

    def at(self, key: Key, rows: Sequence[int]) -> np.ndarray:
        return np.stack([subject.scores[key][row] for subject, row in zip(self.subjects, rows, strict=True)])

    def forgetting(self, tasks: Sequence[Key]) -> Measure:
        """Of every task but the stream's last: the scores in its best row, less those in the last row."""
        best: dict[Key, list[int]] = {}
        for subject in self.subjects:
            matrix = np.stack([subject.scores[None, task].mean(1) for task in subject.tasks], axis=1)
            for task, row in zip(subject.tasks, best_rows(matrix), strict=False):
                best.setdefault((None, task), []).append(row)
        kept = [key for key in tasks if key in best]
        return Measure({key: self.at(key, best[key]) for key in kept}, {key: self.final[key] for key in kept})

    @property
    def cost(self) -> dict[str, float] | None:
        """Means over the seeds: seconds, tokens trained on and generated; None of a model that was never in a stream."""
        costs = [subject.cost for subject in self.subjects if subject.cost]
        names = ("seconds", "train_tokens", "rollout_tokens")
        return {name: float(np.mean([each.get(name, 0) for each in costs])) for name in names} if costs else None


def grouped(subjects: Sequence[Subject], shared: Sequence[Key], labels: Mapping[Path, str]) -> list[Group]:
    """The groups in the order of their first run. `labels` are names by folder, where the caller has better ones.

    Raises:
        UserError: one recipe has one seed twice.
    """
    by_recipe: dict[str, list[Subject]] = {}
    for subject in subjects:
        by_recipe.setdefault(subject.same, []).append(subject)
    problems, members = [], []
    for group in by_recipe.values():
        group.sort(key=lambda each: (each.seed is not None, each.seed))
        for one, two in itertools.pairwise(group):
            if one.seed == two.seed:
                problems.append(f"{two.folder}: is the same recipe with the same seed as {one.folder}: leave one out")
        members.append(group)
    if problems:
        raise UserError("\n".join(problems))
    names = [labels.get(group[0].folder) for group in members]
    names = [name or made for name, made in zip(names, labels_of([group[0] for group in members]), strict=True)]
    return [Group(name, tuple(group), tuple(shared)) for name, group in zip(unlike(names), members, strict=True)]


def labels_of(firsts: Sequence[Subject]) -> list[str]:
    """The recipes' names; where several share one, with the settings in which they differ."""
    labels = []
    for subject in firsts:
        others = [other for other in firsts if other.name == subject.name and other.recipe and subject.recipe]
        settings = differences(subject, others) if len(others) > 1 else []
        more = f", and {len(settings) - MOST_DIFFERENCES} more" if len(settings) > MOST_DIFFERENCES else ""
        described = ", ".join(settings[:MOST_DIFFERENCES]) + more
        labels.append(f"{subject.name} ({described})" if described else subject.name)
    return labels


def differences(subject: Subject, others: Sequence[Subject]) -> list[str]:
    """`args.learning_rate=0.0001`: the settings of a recipe that are not the same in all; tasks' numbers left out."""
    flats = [flat(trained(other.recipe)) for other in others]
    mine = flat(trained(subject.recipe))
    if len({other.tasks for other in others}) > 1:
        return ["order " + " ".join(subject.tasks)]
    unlike = [key for key in mine if any(other.get(key, ...) != mine[key] for other in flats)]
    values: dict[str, dict[str, Any]] = {}
    for key in unlike:
        short = re.sub(r"^(stream\.\d+\.stages\.\d+\.(args\.)?|evaluation\.)", "", key)
        values.setdefault(short, {})[json.dumps(mine[key])] = mine[key]
    return [f"{key}={', '.join(map(json.dumps, each.values()))}".replace('"', "") for key, each in values.items()]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested maps and lists."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            key: each
            for name, child in items
            for key, each in flat(child, f"{path}.{name}" if path else str(name)).items()
        }
    return {path: value}


def unlike(names: Sequence[str]) -> list[str]:
    """The names, numbered where one stands there twice."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return result
