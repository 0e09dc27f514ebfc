"""An engine that remembers what an untouched model answered: evaluating the same base again is a part of every small run.

A batch is found by its token ids, its sampling and all that its numbers depend on (`cpt.cache.surroundings`); answers are
scored anew each time, so no verifier is remembered. Answers that were drawn without a seed are never kept.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cpt import ranks
from cpt.errors import CannotWrite
from cpt.files import hash_of, read_sealed, write_sealed
from cpt.rollouts.base import Completion, Engine, Sampling, Scored


class CachedEngine:
    """`engine`, whose answers are kept in `folder`. See `rollouts.base.Engine`.

    All ranks take a batch from the cache or none does: an engine's calls may be collectives.
    """

    def __init__(self, engine: Engine, folder: Path, surroundings: dict[str, Any]):
        self.engine, self.folder = engine, folder
        self.key = hash_of(surroundings)
        self.taken = self.asked = 0  # batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        if sampling.temperature > 0 and sampling.seed is None:
            return self.engine.generate(prompts, sampling, on_done)
        what = {"generate": list(map(list, prompts)), "sampling": dataclasses.asdict(sampling)}
        kept = self._kept(what, lambda: self.engine.generate(prompts, sampling, on_done), len(prompts), on_done)
        return [Completion(**{key: value for key, value in each.items() if key != "scored"}) for each in kept]

    def score(
        self,
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        on_done: Callable[[int], None] | None = None,
    ) -> list[Scored]:
        what = {"score": list(map(list, prompts)), "completions": list(map(list, completions))}
        kept = self._kept(what, lambda: self.engine.score(prompts, completions, on_done), len(prompts), on_done)
        return [Scored(**each) for each in kept]

    def _kept(
        self, what: dict, ask: Callable[[], Sequence[Any]], count: int, on_done: Callable[[int], None] | None
    ) -> list[dict]:
        """The answers as plain data: from the cache, or asked and put there."""
        file = self._file(what)
        found = read(file, count)
        self.asked += 1
        if not ranks.any_rank(found is None):
            self.taken += 1
            if on_done:
                on_done(count)
            return found
        made = [dataclasses.asdict(each) for each in ask()]
        if count:
            write(file, made)
        return made

    def _file(self, what: dict) -> Path:
        name = hash_of({"surroundings": self.key, **what})
        return self.folder / name[:2] / f"{name}.json"


def read(file: Path, count: int) -> list[dict] | None:
    """The answers in the file; None where it is not there, or is damaged. An empty batch has none."""
    if not count:
        return []
    try:
        content = read_sealed(file)
        if content is None or len(content["answers"]) != count:
            return None
        os.utime(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return content["answers"]


def write(file: Path, answers: list[dict]) -> None:
    """Keep the answers; a cache that cannot be written is none."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(file, {"answers": answers})
    except (OSError, CannotWrite):
        return
