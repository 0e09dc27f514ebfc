"""The user's mistakes: each is one line that says what is wrong, where, and what to do. The command line exits with 2."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """Input that cannot be used. The message is one line: what is wrong, where (file, key), and the remedy."""


class EngineFailed(RuntimeError):
    """A rollout engine that cannot continue. The whole message is for the user: its lines are the last of its log."""


class CannotWrite(RuntimeError):
    """A file that the system did not let us write. The message is one line: which file, why, how much room, what to do."""


class Interrupted(Exception):
    """The run was asked to stop (SIGTERM or Ctrl-C) and has saved its place; `signal` is the signal's number."""

    def __init__(self, signal: int):
        super().__init__(signal)  # other ranks make it again from this
        self.signal = signal

    def __str__(self) -> str:
        return f"interrupted by signal {self.signal}"


LONGEST_KEY, LONGEST_MESSAGE, MOST_PROBLEMS = 200, 1500, 100


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe: `file` and `line` (None on the command line), the dotted `key`, and the message.

    As text it is one line of characters that can be printed, whatever the recipe holds.
    """

    file: Path | str | None
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        parts = (place, cut(self.key, LONGEST_KEY), cut(self.message, LONGEST_MESSAGE))
        return printable(": ".join(part for part in parts if part))


class RecipeErrors(UserError):
    """All mistakes that were found in one recipe, in the order of their places."""

    def __init__(self, problems: Sequence[Problem]):
        lines = [str(problem) for problem in problems[:MOST_PROBLEMS]]
        lines += [f"and {len(problems) - MOST_PROBLEMS:,} more problems"] if len(problems) > MOST_PROBLEMS else []
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str) -> str:
    """The text with line ends, control characters and the like written as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shown(value: Any, most: int = 60) -> str:
    """A value of the user's as a message shows it: as Python writes it, cut where it is long."""
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]!r}... ({len(value):,} characters)"
    return cut(repr(value), 2 * most)


def listed(names: Iterable[str], most: int = 30) -> str:
    """The names, a long one cut, the first of many."""
    names = [cut(printable(name), 40) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the name of `known` that is most like `name`; nothing where none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return did_you_mean(near[0]) if near else ""


def did_you_mean(name: str) -> str:
    return f"; did you mean {name}?"


def nearest_or_all(name: str, known: Iterable[str], what: str = "there are") -> str:
    """The same; where none is like it, `; there are: X, Y`, and nothing where there are none."""
    known = list(known)
    return nearest(name, known) or (f"; {what}: {listed(known)}" if known else "")
