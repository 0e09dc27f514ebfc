"""Rows kept of earlier tasks, for what is trained on them again."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cpt.data.rows import NEEDS, Row, sft_row
from cpt.data.stream import TaskData
from cpt.errors import UserError
from cpt.recipe import Recipe


def memories(recipe: Recipe) -> dict[str, Any]:
    """{strategies.0.memory: what it says} of the strategies that keep rows."""
    return {
        f"strategies.{number}.memory": spec.memory
        for number, spec in enumerate(recipe.strategies)
        if spec.memory is not None
    }


def kept(task: TaskData, number: int, seed: int, count: int) -> list[Row]:
    """`count` training rows of task `number` (1: the first) in their order; all of them where it has no more.

    They are drawn by the recipe's `data.seed`, as all rows are, so that runs of several training seeds keep the same ones.
    What is kept of a task depends on no other task.
    """
    drawn = np.random.default_rng(np.random.SeedSequence([seed, number])).permutation(len(task.train))[:count]
    return [task.train[int(place)] for place in sorted(drawn)]


def sft_forms(tasks: Sequence[TaskData], seed: int, count: int, key: str) -> Iterator[tuple[TaskData, Row, Row]]:
    """(task, row, what SFT trains on) for each row kept of `tasks`, the first ones of the stream; `key` is who keeps them.

    Raises:
        UserError: a row has no demonstration.
    """
    for number, task in enumerate(tasks, start=1):
        for row in kept(task, number, seed, count):
            form = sft_row(row)
            if form is None:
                raise UserError(
                    f"{key}: row {row['id']}, kept of stream.{task.name}, has {', '.join(sorted(row))}; training on "
                    f"it again needs {NEEDS['demonstration']}"
                )
            yield task, row, form
