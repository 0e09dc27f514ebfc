"""The user's mistakes: each is one line that says what is wrong, where, and what to do. The command line exits with 2."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


class UserError(ValueError):
    """Input that cannot be used. The message is one line: what is wrong, where (file, key), and the remedy."""


class EngineFailed(RuntimeError):
    """A rollout engine that cannot go on. The whole message is for the user: its lines are the last of the engine's log."""


class Interrupted(Exception):
    """The run was asked to stop (SIGTERM or Ctrl-C) and has saved its place; `signal` is the signal's number."""

    def __init__(self, signal: int):
        super().__init__(signal)  # other ranks make it again from this
        self.signal = signal

    def __str__(self) -> str:
        return f"interrupted by signal {self.signal}"


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe: `file` and `line` (None on the command line), the dotted `key`, and the message."""

    file: Path | str | None
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (place, self.key, self.message) if part)


class RecipeErrors(UserError):
    """All mistakes that were found in one recipe, in the order of their places."""

    def __init__(self, problems: Sequence[Problem]):
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the name of `known` that is most like `name`; nothing where none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def nearest_or_all(name: str, known: Iterable[str]) -> str:
    """The same; where none is like it, `; there are: X, Y`, and nothing where there are none."""
    known = list(known)
    return nearest(name, known) or (f"; there are: {', '.join(known)}" if known else "")
