"""The problems that the checks of a recipe find: all of them, each with its key, raised together."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from cpt.errors import Problem, RecipeErrors, UserError

# A UserError that begins with a key of the recipe or of a suite: "stream.tickets.data: ...", "suite general, task copy: ..."
KEYED = re.compile(
    r"((?:model|adapter|data|rollouts|stream|strategies|evaluation|suite|--out)\b[^:]*): (.+)", re.DOTALL
)


class Findings:
    """Collects problems. Of many rows that have the same thing wrong, the first is named and the others are counted."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._more: dict[tuple[str, str], list[int]] = {}  # (key, kind) -> [place in _found, how many more]
        self._warned: dict[tuple[str, str], list] = {}  # (key, kind) -> [message, how many more]

    def add(self, key: str, message: str, kind: str | None = None) -> None:
        """Note what is wrong at `key`. Rows with the same key and `kind` are counted, not listed."""
        self.take(Problem(None, None, key, message), kind)

    def warn(self, key: str, message: str, kind: str | None = None) -> None:
        """Note what may not be meant at `key`, and is no reason to refuse. Rows of one `kind` are counted, as in `add`."""
        there = self._warned.setdefault((key, kind or message), [message, -1])
        there[1] += 1

    def take(self, problem: Problem, kind: str | None = None) -> None:
        if kind is not None and (problem.key, kind) in self._more:
            self._more[problem.key, kind][1] += 1
        elif problem not in self._found:
            self._found.append(problem)
            if kind is not None:
                self._more[problem.key, kind] = [len(self._found) - 1, 0]

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
        return [f"{key}: {message}{others(more)}" for (key, _), (message, more) in self._warned.items()]

    @property
    def problems(self) -> list[Problem]:
        """What was found, in order; each with the number of further rows of its kind."""
        found = list(self._found)
        for place, more in self._more.values():
            found[place] = replace(found[place], message=f"{found[place].message}{others(more)}")
        return found

    def check(self) -> None:
        """Raise RecipeErrors with all that was found, if anything was."""
        if self._found:
            raise RecipeErrors(self.problems)


def others(more: int) -> str:
    return f" (and {more} more row{'s' * (more > 1)} like it)" if more else ""
