"""What may be compared: the same questions, answered and scored in the same way."""

from collections.abc import Iterator, Sequence
from typing import Any

from cpt.comparison.subject import Key, Subject
from cpt.errors import UserError, listed, shown

EXAMPLE = 60  # characters of a question that a message shows


def name_of(key: Key) -> str:
    suite, task = key
    return task if suite is None else f"{suite}/{task}"


def check_comparable(subjects: Sequence[Subject], reference: Subject) -> list[str]:
    """What the reader should know of the comparison.

    Raises:
        UserError: a line for each reason why one of them cannot be compared with `reference`.
    """
    problems, notes = [], []
    for subject in subjects:
        if subject is not reference:
            found = list(obstacles(subject, reference))
            problems += [f"{subject.folder}: cannot be compared with {reference.folder}: {each}" for each in found]
    if problems:
        raise UserError("\n".join(problems))
    shared = shared_keys(subjects)
    if not shared:
        raise UserError("the runs share no task and no suite: there is no question that all of them were asked")
    for subject in subjects:
        if lacking := [name_of(key) for key in subject.scores if key not in shared]:
            notes.append(f"{subject.folder}: {listed(lacking)}: left out, because not all were asked it")
        if subject.tasks and reference.tasks and subject.tasks != reference.tasks:
            notes.append(f"{subject.folder}: its tasks come in another order ({', '.join(subject.tasks)})")
        notes += subject.notes
    return list(dict.fromkeys(notes))


def shared_keys(subjects: Sequence[Subject]) -> list[Key]:
    """The tasks, and the suites' tasks, that all were asked; in the first one's order, the stream's first."""
    first = subjects[0]
    ordered = [(None, task) for task in first.tasks] + [key for key in first.scores if key[0] is not None]
    return [key for key in ordered if all(key in subject.scores for subject in subjects)]


def obstacles(subject: Subject, reference: Subject) -> Iterator[str]:
    """Why the two cannot be compared."""
    if subject.tasks and reference.tasks and set(subject.tasks) != set(reference.tasks):
        yield f"other tasks: {', '.join(subject.tasks)} here, {', '.join(reference.tasks)} there"
    alike = subject.source == reference.source
    yield from (f"other {each}" for each in unlike(subject.conditions, reference.conditions, alike))
    shared = [key for key in reference.scores if key in subject.scores]
    for key in shared:
        mine, theirs = subject.task_conditions.get(key, {}), reference.task_conditions.get(key, {})
        yield from (f"{name_of(key)}: other {each}" for each in unlike(mine, theirs, alike))
        if difference := other_questions(subject.questions[key], reference.questions[key]):
            yield f"{name_of(key)}: other questions: {difference}"


def unlike(mine: dict[str, Any], theirs: dict[str, Any], alike: bool) -> Iterator[str]:
    """Conditions that differ. `alike`: both were written by the same program, so what one does not name it does not have."""
    if not mine or not theirs:
        return
    names = dict.fromkeys([*theirs, *mine]) if alike else [name for name in theirs if name in mine]
    for name in names:
        here, there = mine.get(name), theirs.get(name)
        if here != there and not unknown(name, here, there):
            yield f"{name}: {shown(here)} here, {shown(there)} there"


def unknown(name: str, *values: Any) -> bool:
    """The precision that one of them does not say (lm-eval does not, of every model class)."""
    return name == "model.dtype" and None in values


def other_questions(mine: dict[str, str], theirs: dict[str, str]) -> str | None:
    """How the questions differ, with an example; None where they are the same."""
    if mine == theirs:
        return None
    if not mine.keys() & theirs.keys():
        return f"none of {len(mine)} here is among {len(theirs)} there"
    if mine.keys() != theirs.keys():
        only_here, only_there = len(mine.keys() - theirs.keys()), len(theirs.keys() - mine.keys())
        return f"{len(mine)} here, {len(theirs)} there; {only_here} only here, {only_there} only there"
    row = next(row for row in mine if mine[row] != theirs[row])
    number = sum(mine[row] != theirs[row] for row in mine)
    return (
        f"{number} of {len(mine)} have another prompt or answer, for example {row}: "
        f"{shown(mine[row], EXAMPLE)} here, {shown(theirs[row], EXAMPLE)} there"
    )
