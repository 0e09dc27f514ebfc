"""The stream's rows: every task's splits and every suite's questions, proven to be apart."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from cpt.data import sources
from cpt.data.rows import NEEDS, STAGE_ROWS, Row, packed, prompt_key, prompt_of, shape, shape_words, trained_prompts
from cpt.data.table import table
from cpt.errors import UserError
from cpt.recipe import Recipe, Suite, SuiteTask, Task

SHOWN = 5  # leaks that an error names


@dataclass(frozen=True)
class TaskData:
    """The rows of one task. Of a suite's task only `eval` is filled."""

    name: str
    train: Sequence[Row]
    validation: Sequence[Row]
    eval: Sequence[Row]
    spec: Task | SuiteTask


@dataclass(frozen=True)
class Stream:
    """The tasks in their order, and the held-out suites by name."""

    tasks: tuple[TaskData, ...]
    suites: dict[str, tuple[TaskData, ...]]

    def manifest(self) -> dict:
        """{task: {split: {rows, hash}}}: what the run was trained and judged on."""
        named = {task.name: task for task in self.tasks}
        named |= {f"{suite}/{task.name}": task for suite, tasks in self.suites.items() for task in tasks}
        return {name: {split: fingerprint(rows) for split, rows in splits(task)} for name, task in named.items()}


def validation_of(stream: Stream, tasks: int) -> Stream:
    """The first `tasks` tasks alone, asked their validation rows in the place of their evaluation rows; no suite."""
    return Stream(tuple(replace(task, eval=task.validation) for task in stream.tasks[:tasks]), {})


class Chosen(Sequence):
    """The rows at some places of others, read as they are asked for."""

    def __init__(self, rows: Sequence[Row], places: Sequence[int]):
        self.rows, self.places = rows, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.rows[place] for place in self.places[index]]
        return self.rows[self.places[index]]


def splits(task: TaskData) -> Iterator[tuple[str, Sequence[Row]]]:
    for split in sources.SPLITS:
        rows = getattr(task, split)
        if len(rows):
            yield split, rows


def fingerprint(rows: Iterable[Row]) -> dict:
    digest, number = hashlib.sha256(), 0
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
        number += 1
    return {"rows": number, "hash": digest.hexdigest()}


def load_stream(recipe: Recipe, suites: dict[str, Suite]) -> Stream:
    """Load all rows, and prove that nothing that is trained on is asked in an evaluation.

    Raises:
        UserError: data that cannot be read, a task without evaluation or training rows, or a leak (names the rows).
    """
    tasks = tuple(load_task(task, recipe.data.seed, sources.SPLITS) for task in recipe.stream)
    asked = {
        name: tuple(load_task(task, recipe.data.seed, ("eval",)) for task in suite.tasks)
        for name, suite in suites.items()
    }
    stream = Stream(tasks, asked)
    prove_apart(stream)
    return stream


def load_task(spec: Task | SuiteTask, seed: int, wanted: Sequence[str]) -> TaskData:
    rows = {
        split: sources.load(spec.data, split, spec.task, seed) if split in wanted else [] for split in sources.SPLITS
    }
    for split in wanted:
        if split != "validation" and len(rows[split]) == 0:
            raise UserError(
                f"stream.{spec.task}.data.{split}: no rows; every task needs rows to train on and to evaluate"
            )
    return TaskData(spec.task, **rows, spec=spec)


def prove_apart(stream: Stream) -> None:
    """Raise UserError where a prompt is in two splits of a task, or is trained in one task and asked in another place.

    To judge a merge on validation rows is to ask them too. Prompts are compared by the hash of their normalised text. What is
    asked twice within one task would count twice, and is refused too.
    """
    asked: dict[bytes, str] = {}
    for task in stream.tasks:
        mine: dict[bytes, str] = {}
        note_asked(task, mine)
        asked |= mine
    for suite in stream.suites.values():
        for task in suite:
            mine = {}
            note_asked(task, mine)
            asked |= mine
    judged = {prompt_key(prompt_of(row)): row["id"] for task in stream.tasks for row in task.validation}
    for task in stream.tasks:
        leaks = list(overlaps(task.validation, asked))
        trained = list(overlaps(task.train, judged | asked))
        if leaks or trained:
            refuse(task, [*trained, *leaks])


def note_asked(task: TaskData, seen: dict[bytes, str]) -> None:
    for row in task.eval:
        key = prompt_key(prompt_of(row))
        if key in seen:
            raise UserError(f"stream.{task.name}.data.eval: rows {seen[key]} and {row['id']} ask the same; keep one")
        seen[key] = row["id"]


def overlaps(rows: Iterable[Row], others: dict[bytes, str]) -> Iterator[tuple[str, str]]:
    for row in rows:
        other = next((other for prompt in trained_prompts(row) if (other := others.get(prompt_key(prompt)))), None)
        if other is not None:
            yield row["id"], other


def refuse(task: TaskData, leaks: list[tuple[str, str]]) -> None:
    shown = ", ".join(f"{mine} = {other}" for mine, other in leaks[:SHOWN])
    more = f" and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
    raise UserError(
        f"stream.{task.name}.data: {len(leaks)} row(s) have the prompt of a row of another split or of an evaluation "
        f"({shown}{more}): take them out of one of the two"
    )


def stage_rows(task: TaskData, kind: str):
    """The task's training rows as a `datasets.Dataset`: each row packed, and its prompt beside it (`rows.packed`).

    Raises:
        UserError: a row lacks what the stage needs.
    """
    return table(packed(row) for row, _ in zip(task.train, stage_forms(task, kind), strict=True))


def stage_forms(task: TaskData, kind: str) -> Iterator[Row]:
    """What a stage of this kind takes of each training row. Raises UserError, as `stage_rows` does."""
    first = None
    for row in task.train:
        one = STAGE_ROWS[kind](row)
        if one is None:
            raise UserError(
                f"stream.{task.name}: row {row['id']} has {', '.join(sorted(row))}; a {kind} stage needs {NEEDS[kind]}"
            )
        mine = shape(one)
        first = first or (mine, row["id"])
        if mine != first[0]:
            raise UserError(
                f"stream.{task.name}: row {row['id']} gives {shape_words(mine)} for {kind}, and {first[1]} "
                f"{shape_words(first[0])}: the rows of one task must be of one form"
            )
        yield one
