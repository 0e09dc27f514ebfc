"""Rows of reasoning-gym's data sets, made from the recipe's data seed."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager

from cpt.data.loaded import Rows, made
from cpt.data.rows import Row, prompt_key
from cpt.errors import UserError, nearest, nearest_or_all
from cpt.recipe import ReasoningGym

GYM_SIZE = 1000  # entries of one data set of reasoning-gym


def load(source: ReasoningGym, split: str, task: str, seed: int) -> Rows:
    """Entries of one of reasoning-gym's data sets, no prompt twice in any split; the entry travels for its scorer.

    One stream of entries feeds the splits in turn (eval first), so that the evaluation rows do not depend on how much
    is trained on.
    """
    wanted = {"eval": source.eval, "validation": source.validation, "train": source.train}
    order = list(wanted)
    seen: set[bytes] = set()
    entries = entries_of(source, seed)
    for name in order[: order.index(split) + 1]:
        taken = list(itertools.islice(unseen(entries, seen), wanted[name]))
        if len(taken) < wanted[name]:
            raise UserError(
                f"stream.{task}.data: reasoning_gym {source.name} gave only {len(taken)} new prompts for {name}, "
                f"{wanted[name]} were asked for: ask for fewer, or make its config harder"
            )
    return made((row_of(source, entry) for entry in taken), f"{task}/{split}")


def unseen(entries: Iterator[dict], seen: set[bytes]) -> Iterator[dict]:
    """Entries whose question did not come before; gives up after a thousand repetitions in a row."""
    repeated = 0
    for entry in entries:
        key = prompt_key(entry["question"])
        if key in seen:
            repeated += 1
            if repeated == 1000:
                return
            continue
        repeated = 0
        seen.add(key)
        yield entry


def check(source: ReasoningGym) -> None:
    """Raises UserError for a data set or a field of its config that reasoning-gym does not have, or refuses."""
    import reasoning_gym  # noqa: F401 (fills the registry)
    from reasoning_gym.factory import DATASETS

    if source.name not in DATASETS:
        raise UserError(f"reasoning_gym has no data set {source.name!r}{nearest(source.name, DATASETS)}")
    config = DATASETS[source.name][1]
    known = [field.name for field in dataclasses.fields(config)]
    for key in source.config:
        if key not in known or key in ("seed", "size"):
            settable = [field for field in known if field not in ("seed", "size")]
            hint = nearest_or_all(key, settable)
            raise UserError(f"reasoning_gym {source.name} has no config field {key!r} that can be set{hint}")
    with refusals(source):
        config(**source.config).validate()


@contextmanager
def refusals(source: ReasoningGym) -> Iterator[None]:
    try:
        yield
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"reasoning_gym {source.name} refuses its config: {' '.join(str(error).split())}") from error


def entries_of(source: ReasoningGym, seed: int) -> Iterator[dict]:
    """An endless stream of entries: data sets of GYM_SIZE, each with a seed of its own.

    Most data sets draw entry i by seed + i, so two seeds less than GYM_SIZE apart would give nearly the same entries.
    """
    import reasoning_gym

    check(source)
    for part in itertools.count():
        with refusals(source):
            own = (seed * 1_000_003 + part * GYM_SIZE) % 2**31  # some data sets draw by numpy, which takes no more
            yield from reasoning_gym.create_dataset(source.name, seed=own, size=GYM_SIZE, **source.config)


def row_of(source: ReasoningGym, entry: dict) -> Row:
    question = entry["question"]
    prompt = [{"role": "user", "content": question}] if source.conversational else question
    metadata = {"reasoning_gym": source.name, "entry": json.dumps(entry, default=str)}
    row = {"prompt": prompt, "metadata": metadata}
    return row if entry.get("answer") is None else row | {"answer": str(entry["answer"])}
