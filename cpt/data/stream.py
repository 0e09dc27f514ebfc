"""The stream's rows: every task's splits and every suite's questions, proven to be apart."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cpt.data import contamination, sources
from cpt.data.loaded import Rows
from cpt.data.rows import FORMS, NEEDS, Row, called, packed, shape, shape_text
from cpt.data.table import table
from cpt.errors import Problem, RecipeErrors
from cpt.recipe import Recipe, Suite, SuiteTask, Task
from cpt.recipe.stages import StageSpec
from cpt.records import Contamination


@dataclass(frozen=True)
class TaskData:
    """The rows of one task. Of a suite's task only `eval` is filled."""

    name: str
    train: Sequence[Row]
    validation: Sequence[Row]
    eval: Sequence[Row]
    spec: Task | SuiteTask


class Benchmark(Protocol):
    """A suite whose questions are another library's (`cpt.evaluation.suites.lm_eval`)."""

    name: str

    def fingerprints(self) -> dict[str, dict]:
        """{task: {rows, hash}} of its questions and how they are asked."""

    def texts(self) -> Iterator[tuple[str, str, list[str]]]:
        """(task, question, its texts): what no row that is trained on may have as its prompt."""

    def note(self) -> str:
        """What is asked, and what the score of each task is, in one line."""

    def ask(self, asking: Any) -> list[Any]:
        """The answers to all its questions, on every rank (`evaluation.suites.base.Asking`)."""


@dataclass(frozen=True)
class Stream:
    """The tasks in their order, and by name the held-out suites of rows and those of other libraries."""

    tasks: tuple[TaskData, ...]
    suites: dict[str, tuple[TaskData, ...]]
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    contamination: Contamination | None = None  # rows that hold questions of evaluations

    def evaluated(self) -> list[tuple[str | None, TaskData]]:
        """(suite, task) of all that is evaluated on rows; the suite of a task of the stream is None."""
        return [
            *((None, task) for task in self.tasks),
            *((name, task) for name, tasks in self.suites.items() for task in tasks),
        ]

    def notes(self) -> list[str]:
        """What a person should know of how the rows were read."""
        tasks = [task for _, task in self.evaluated()]
        notes = [note for task in tasks for _, rows in splits(task) for note in rows.notes]
        notes += [each.note() for each in self.benchmarks.values()]
        return list(dict.fromkeys(notes)) + ([contamination.note(self.contamination)] if self.contamination else [])

    def manifest(self) -> dict:
        """{task: {split: {rows, hash}}}: what the run was trained and evaluated on."""
        named = {task.name: task for task in self.tasks}
        named |= {f"{suite}/{task.name}": task for suite, tasks in self.suites.items() for task in tasks}
        made = {name: {split: fingerprint(rows) for split, rows in splits(task)} for name, task in named.items()}
        for name, benchmark in self.benchmarks.items():
            made |= {f"{name}/{task}": {"eval": each} for task, each in benchmark.fingerprints().items()}
        return made

    def verifiers(self) -> list[dict]:
        """The verifiers that score answers, as the recipe's plain data."""
        specs = [task.spec for _, task in self.evaluated()]
        return [each.model_dump() for spec in specs for each in (spec.reward, spec.verifier) if each is not None]


def validation_of(stream: Stream, tasks: int) -> Stream:
    """The first `tasks` tasks alone, asked their validation rows instead of their evaluation rows; no suite."""
    return Stream(tuple(replace(task, eval=task.validation) for task in stream.tasks[:tasks]), {})


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
        RecipeErrors: all that is wrong: data that cannot be read, rows that are wrong or lacking, questions that are asked
            twice, leaks.
    """
    stream, problems = read_stream(recipe, suites)
    if problems:
        raise RecipeErrors(problems)
    return stream


def read_stream(
    recipe: Recipe, suites: dict[str, Suite], is_read: Callable[[str, Task | SuiteTask], bool] = lambda *_: True
) -> tuple[Stream, list[Problem]]:
    """The rows that could be read, and all that is wrong. `is_read(key, task)`: whether a task is read at all."""
    problems: list[Problem] = []

    def read(tasks: Iterable, where: str, wanted: Sequence[str]) -> tuple[TaskData, ...]:
        keyed = ((f"{where}.{task.task}", task) for task in tasks)
        return tuple(
            load_task(task, recipe.data.seed, wanted, key, problems) for key, task in keyed if is_read(key, task)
        )

    asked = {name: read(suite.tasks, f"suite {name}: tasks", ("eval",)) for name, suite in suites.items()}
    stream = Stream(read(recipe.stream, "stream", sources.SPLITS), asked)
    stream, leaks = contamination.overlaps(stream, recipe.data)
    problems += leaks
    if not problems:
        problems += emptied(stream)
    return stream, problems


def emptied(stream: Stream) -> list[Problem]:
    """Tasks of which `data.contamination: drop` leaves no row."""
    message = "`data.contamination: drop` leaves none of its rows: give rows that no evaluation asks"
    return [
        Problem(None, None, f"stream.{task.name}.data.train", message) for task in stream.tasks if not len(task.train)
    ]


def load_task(spec: Task | SuiteTask, seed: int, wanted: Sequence[str], key: str, problems: list[Problem]) -> TaskData:
    """The rows of a task; a split that cannot be read is empty, and what is wrong with it is added to `problems`."""
    rows: dict[str, Sequence[Row]] = dict.fromkeys(sources.SPLITS, Rows())
    for split in wanted:
        try:
            rows[split] = sources.load(spec.data, split, spec.task, seed)
        except RecipeErrors as error:
            messages = {problem.message for problem in problems}
            problems += [
                replace(each, key=f"{key}.data.{each.key}") for each in error.problems if each.message not in messages
            ]
            continue
        if split != "validation" and len(rows[split]) == 0:
            message = "no rows; every task needs rows to train on and to evaluate"
            problems.append(Problem(None, None, f"{key}.data.{split}", message))
    return TaskData(spec.task, **rows, spec=spec)


def stage_rows(task: TaskData):
    """The task's training rows as a `datasets.Dataset`: each row packed with the name of its task, and its prompt
    beside it (`rows.packed`).

    They are rows in which `form_problems` finds nothing.
    """
    return table(packed(row | {"task": task.name}) for row in task.train)


def stage_forms(task: TaskData, stage: StageSpec) -> Iterator[Row]:
    """What the stage takes of each training row."""
    return (FORMS[stage.row_form](row) for row in task.train)


def form_problems(rows: Iterable[Row], stage: StageSpec) -> Iterator[tuple[Row, str, str]]:
    """(row, what is the same of all rows with this problem, message) of rows that the stage cannot train on."""
    first = None
    for row in rows:
        form = FORMS[stage.row_form](row)
        if form is None:
            fields = ", ".join(sorted(row))
            yield row, "lacking", f"{called(row)} has {fields}; a {stage.kind} stage needs {NEEDS[stage.row_form]}"
            continue
        mine = shape(form)
        first = first or (mine, row["id"])
        if mine != first[0]:
            yield (
                row,
                "another form",
                f"{called(row)} gives {shape_text(mine)} for {stage.kind}, and {first[1]} {shape_text(first[0])}: "
                "the rows of one task must have one form",
            )
