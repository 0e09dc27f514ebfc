"""The problems that the checks of a recipe find: all of them, each with its key, raised together."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from cpt.data.problems import Others
from cpt.data.rows import Row
from cpt.errors import Problem, RecipeErrors, UserError

# A UserError that begins with a key of the recipe or of a suite: "stream.tickets.data: ...", "suite general, task copy: ..."
KEYED = re.compile(
    r"((?:model|adapter|data|rollouts|stream|strategies|evaluation|suite|--out)\b[^:]*): (.+)", re.DOTALL
)


class Findings:
    """Collects problems. Of many rows that have the same thing wrong, the first is named and the others are counted."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._more: dict[tuple[str, str], tuple[int, Others]] = {}  # (key, kind) -> place in _found, and more rows
        self._warned: dict[tuple[str, str], tuple[str, Others]] = {}  # (key, kind) -> message, and more rows

    def add(self, key: str, message: str, kind: str | None = None, row: Row | None = None) -> None:
        """Note what is wrong at `key`. Rows with the same key and `kind` are counted, and a few of them (`row`) named."""
        self.take(Problem(None, None, key, message), kind, row)

    def warn(self, key: str, message: str, kind: str | None = None, row: Row | None = None) -> None:
        """Note what may not be meant at `key`, and is no reason to refuse. Rows of one `kind` are counted, as in `add`."""
        if (key, kind or message) in self._warned:
            self._warned[key, kind or message][1].add(row and row["id"])
        else:
            self._warned[key, kind or message] = message, Others(row and row["id"])

    def take(self, problem: Problem, kind: str | None = None, row: Row | None = None) -> None:
        if kind is not None and (problem.key, kind) in self._more:
            self._more[problem.key, kind][1].add(row and row["id"])
        elif problem not in self._found:
            self._found.append(problem)
            if kind is not None:
                self._more[problem.key, kind] = len(self._found) - 1, Others(row and row["id"])

    @contextmanager
    def collecting(self, kind: str | None = None) -> Iterator[None]:
        """A UserError that is raised in this block is noted, and the block ends there."""
        try:
            yield
        except RecipeErrors as error:
            for problem in error.problems:
                self.take(problem, kind)
        except UserError as error:
            keyed = KEYED.fullmatch(str(error))
            self.add(*(keyed.groups() if keyed else ("", str(error))), kind)

    def about(self, key: str) -> bool:
        """Whether anything was found at `key` or under it."""
        return any(f"{problem.key}.".startswith(f"{key}.") for problem in self._found)

    @property
    def warnings(self) -> list[str]:
        """What `warn` noted, in order, one line each."""
        return [f"{key}: {message}{more}" for (key, _), (message, more) in self._warned.items()]

    @property
    def problems(self) -> list[Problem]:
        """What was found, in order; each with the number of further rows of its kind."""
        problems = list(self._found)
        for place, more in self._more.values():
            problems[place] = replace(problems[place], message=f"{problems[place].message}{more}")
        return problems

    def check(self) -> None:
        """Raise RecipeErrors with all that was found, if anything was."""
        if self._found:
            raise RecipeErrors(self.problems)
