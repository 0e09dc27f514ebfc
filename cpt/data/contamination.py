"""Proof that nothing that is trained on is asked in an evaluation, and that nothing is asked twice.

Prompts are compared by the hash of their normalised text (`prompt_keys`). A merge that is searched on validation rows
asks them too, so no stage of any task may train on them.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from cpt.data.problems import RowProblems
from cpt.errors import Problem

SHOWN = 5  # leaks that a message names

Asked = dict[bytes, tuple[Any, int]]  # {key of a prompt: the rows it stands in, and its number there}


def overlaps(stream: Any) -> list[Problem]:
    """What is asked twice within a task, and what is trained on in one task and asked in another place."""
    problems: list[Problem] = []
    asked: Asked = {}
    suites = [(f"suite {name}: tasks.{task.name}", task) for name, tasks in stream.suites.items() for task in tasks]
    for key, task in chain(((f"stream.{task.name}", task) for task in stream.tasks), suites):
        mine: Asked = {}
        problems += repeated(f"{key}.data.eval", task.eval, mine)
        asked |= mine
    validation = {
        task.validation.key(i): (task.validation, i) for task in stream.tasks for i in range(len(task.validation))
    }
    for task in stream.tasks:
        leaks = [*shared(task.train, validation | asked), *shared(task.validation, asked)]
        if leaks:
            problems.append(Problem(None, None, f"stream.{task.name}.data", leak_text(leaks)))
    return problems


def repeated(key: str, rows: Any, seen: Asked) -> list[Problem]:
    """Questions of one task that are asked twice: they would count twice. Adds all to `seen`."""
    problems = RowProblems()
    for index in range(len(rows)):
        first = seen.setdefault(rows.key(index), (rows, index))[1]
        if first != index:
            one, two = (rows.place(each).rpartition("/")[2] for each in (first, index))
            places = f" ({one} and {two})" if one else ""
            message = f"rows {rows.id(first)} and {rows.id(index)} have the same prompt; keep one{places}"
            problems.add("repeated", rows.place(index) or rows.id(index), message)
    return [Problem(None, None, key, line) for line in problems.lines()]


Named = tuple[str, str]


def shared(rows: Any, others: Asked) -> Iterator[tuple[Named, Named]]:
    """(id, short place) of rows whose prompt, or one of whose prompts, is in `others`, each with those of the row there."""
    for index in range(len(rows)):
        other = next((others[key] for key in rows.keys(index) if key in others), None)
        if other is not None:
            yield named(rows, index), named(*other)


def named(rows: Any, index: int) -> Named:
    return rows.id(index), rows.place(index).rpartition("/")[2]


def leak_text(leaks: Sequence[tuple[Named, Named]]) -> str:
    named = ", ".join(
        f"{mine} = {other} ({place} = {other_place})" if place and other_place else f"{mine} = {other}"
        for (mine, place), (other, other_place) in leaks[:SHOWN]
    )
    more = f" and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
    return (
        f"{len(leaks)} row(s) have the same prompt as a row of another split or of an evaluation ({named}{more}): "
        "remove them from one of the two"
    )
