"""Proof that nothing that is trained on is asked in an evaluation, and that nothing is asked twice.

Prompts are compared by the hash of their normalised text (`prompt_keys`). A merge that is searched on validation rows
asks them too, so no stage of any task may train on them. Whole training rows, answers included, are also searched for runs
of words of the evaluations' questions (`ngrams`). Rows that strategies keep of earlier tasks are training rows of those;
answers that a stage samples and then trains on are searched when they are made (`cpt.stages.examples`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

from cpt.data.ngrams import Overlap, Questions
from cpt.data.problems import RowProblems
from cpt.data.rows import COMPLETIONS, Row, contents, prompt_of, prompt_text
from cpt.errors import Problem, cut
from cpt.recipe.schema import DataSettings
from cpt.records import ContaminatedRow, Contamination

SHOWN = 5  # leaks that a message names
LISTED = 1000  # that the manifest lists
TEXT = 160  # characters of a shared text that are shown

Asked = dict[bytes, tuple[Any, int, str]]  # {key of a prompt: the rows it stands in, its number there, whose it is}


@dataclass(frozen=True)
class Leak:
    """Row `index` of the `split` of task number `task` holds a question: row number `question` of the rows `other`.

    `place` is the task, or the suite and its task. `share` is how much of the question n-grams of the row cover, `shared` the
    longest run of words in common; of the same prompt 1 and "".
    """

    task: int
    split: str
    index: int
    other: Any
    question: int
    place: str
    share: float = 1.0
    shared: str = ""


def overlaps(stream: Any, settings: DataSettings) -> tuple[Any, list[Problem]]:
    """The stream without the rows that `settings` drop, and with a record of those that were found; and what is wrong: what
    is asked twice within a task, and what is trained on and asked."""
    problems: list[Problem] = []
    asked: Asked = {}
    places = [(task.name, f"stream.{task.name}", task) for task in stream.tasks]
    for name, tasks in stream.suites.items():
        places += [(f"{name}/{task.name}", f"suite {name}: tasks.{task.name}", task) for task in tasks]
    for place, key, task in places:
        mine: Asked = {}
        problems += repeated(f"{key}.data.eval", task.eval, mine, place)
        asked |= mine
    validation = {
        task.validation.key(i): (task.validation, i, task.name)
        for task in stream.tasks
        for i in range(len(task.validation))
    }
    same: list[Leak] = []
    for number, task in enumerate(stream.tasks):
        same += shared(number, "train", task.train, validation | asked)
        same += shared(number, "validation", task.validation, asked)
    known = {(leak.task, leak.split, leak.index) for leak in same}
    search = Search(stream, settings)
    near = [leak for number, task in enumerate(stream.tasks) for leak in search.rows(number, task.train)]
    near = [leak for leak in near if (leak.task, leak.split, leak.index) not in known]
    if settings.contamination in (None, "stop"):
        problems += refusals(stream, same, leak_text)
    if settings.contamination == "stop":
        problems += refusals(stream, near, near_text)
    leaks = [*same, *near]
    noted = record(stream, settings, leaks) if settings.contamination is not None or near else None
    if settings.contamination == "drop":
        stream = without(stream, leaks)
    return replace(stream, contamination=noted), problems


def repeated(key: str, rows: Any, seen: Asked, name: str) -> list[Problem]:
    """Questions of one task that are asked twice: they would count twice. Adds all to `seen`."""
    problems = RowProblems()
    for index in range(len(rows)):
        first = seen.setdefault(rows.key(index), (rows, index, name))[1]
        if first != index:
            one, two = (rows.place(each).rpartition("/")[2] for each in (first, index))
            places = f" ({one} and {two})" if one else ""
            message = f"rows {rows.id(first)} and {rows.id(index)} have the same prompt; keep one{places}"
            problems.add("repeated", rows.place(index) or rows.id(index), message)
    return [Problem(None, None, key, line) for line in problems.lines()]


def shared(task: int, split: str, rows: Any, others: Asked) -> Iterator[Leak]:
    """Rows whose prompt, or one of whose prompts, is in `others`."""
    for index in range(len(rows)):
        other = next((others[key] for key in rows.keys(index) if key in others), None)
        if other is not None:
            yield Leak(task, split, index, *other)


class Search:
    """The questions of all evaluations on rows, to be looked for in rows that are trained on."""

    def __init__(self, stream: Any, settings: DataSettings):
        self.ngram, self.share = settings.ngram, settings.ngram_share
        self.questions = [
            (task.eval, index, task.name if suite is None else f"{suite}/{task.name}")
            for suite, task in stream.evaluated()
            for index in range(len(task.eval))
        ]

    @cached_property
    def index(self) -> Questions:
        return Questions((prompt_text(prompt_of(rows[index])) for rows, index, _ in self.questions), self.ngram)

    def rows(self, number: int, rows: Iterable[Row]) -> Iterator[Leak]:
        """Training rows of task `number` that hold a large part of a question, in whatever field."""
        if self.index.sizes:
            for found in self.index.overlaps(map(row_text, rows), self.share):
                yield Leak(number, "train", found.text, *self.questions[found.question], found.share, found.shared)

    def texts(self, texts: Iterable[str]) -> dict[int, str]:
        """{number of a text: what it holds, for a message} of those that hold a large part of a question."""
        if not self.index.sizes:
            return {}
        return {found.text: self.named(found) for found in self.index.overlaps(texts, self.share)}

    def named(self, found: Overlap) -> str:
        rows, index, _ = self.questions[found.question]
        return f"{rows.id(index)}, in common: {cut(found.shared, TEXT)!r}"


def row_text(row: Row) -> str:
    """All that a stage may train on of a row, as one text."""
    fields = ("prompt", "messages", "raw_text", "answer", *COMPLETIONS)
    return "\n".join(chain.from_iterable(contents(row[name]) for name in fields if row.get(name) is not None))


# -- what becomes of them ------------------------------------------------------------------------------------------------


def refusals(stream: Any, leaks: Sequence[Leak], text: Any) -> Iterator[Problem]:
    for number, task in enumerate(stream.tasks):
        if mine := [leak for leak in leaks if leak.task == number]:
            yield Problem(None, None, f"stream.{task.name}.data", text(stream, mine))


def without(stream: Any, leaks: Sequence[Leak]) -> Any:
    """The stream without these rows."""
    tasks = []
    for number, task in enumerate(stream.tasks):
        kept = {}
        for split in ("train", "validation"):
            gone = {leak.index for leak in leaks if (leak.task, leak.split) == (number, split)}
            rows = getattr(task, split)
            kept[split] = rows.at([index for index in range(len(rows)) if index not in gone]) if gone else rows
        tasks.append(replace(task, **kept))
    return replace(stream, tasks=tuple(tasks))


def leak_text(stream: Any, leaks: Sequence[Leak]) -> str:
    return (
        f"{len(leaks)} row(s) have the same prompt as a row of another split or of an evaluation ({listed(stream, leaks)}): "
        "remove them from one of the two, or set `data.contamination: drop`"
    )


def near_text(stream: Any, leaks: Sequence[Leak]) -> str:
    return (
        f"{len(leaks)} row(s) hold a large part of an evaluation's question ({listed(stream, leaks)}; in common: "
        f"{cut(leaks[0].shared, TEXT)!r}): remove them from one of the two, or set `data.contamination` to `drop` or `report`"
    )


def listed(stream: Any, leaks: Sequence[Leak]) -> str:
    """The first of them: `sort/train/3 = sort/eval/7 (train.jsonl:4 = eval.jsonl:8)`."""
    parts = []
    for leak in leaks[:SHOWN]:
        rows = getattr(stream.tasks[leak.task], leak.split)
        mine, other = rows.id(leak.index), leak.other.id(leak.question)
        here, there = (each.rpartition("/")[2] for each in (rows.place(leak.index), leak.other.place(leak.question)))
        parts.append(f"{mine} = {other} ({here} = {there})" if here and there else f"{mine} = {other}")
    return ", ".join(parts) + (f" and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else "")


def note(found: Contamination) -> str:
    """What the screen says of it."""
    rows = sum(found["rows"].values())
    tasks = ", ".join(f"{count} of {task}" for task, count in found["rows"].items() if count)
    if not rows:
        return f"contamination: no training row holds {found['share']:.0%} of an evaluation's question"
    first = found["found"][0]
    where = f", for example {first['row']} and {first['question']}"
    what = "left out" if found["action"] == "drop" else "kept: `data.contamination: drop` leaves them out"
    return f"contamination: {rows} row(s) hold a large part of an evaluation's question ({tasks}{where}); {what}"


def record(stream: Any, settings: DataSettings, leaks: Sequence[Leak]) -> Contamination:
    """What the manifest keeps of it."""
    rows = {task.name: 0 for task in stream.tasks}
    for leak in leaks:
        rows[stream.tasks[leak.task].name] += 1
    found = [described(stream.tasks[leak.task], leak) for leak in leaks[:LISTED]]
    action = settings.contamination
    return {"action": action, "ngram": settings.ngram, "share": settings.ngram_share, "rows": rows, "found": found}


def described(task: Any, leak: Leak) -> ContaminatedRow:
    rows = getattr(task, leak.split)
    return {
        "task": task.name,
        "split": leak.split,
        "row": rows.id(leak.index),
        "place": rows.place(leak.index),
        "evaluation": leak.place,
        "question": leak.other.id(leak.question),
        "question_place": leak.other.place(leak.question),
        "share": round(leak.share, 4),
        "shared": cut(leak.shared, TEXT) or None,
    }
