"""Where rows come from: the letter tasks, reasoning-gym, local files, the recipe itself, and the hub.

`load` gives the rows of one split; `count` says how many there are, without loading what takes long.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from cpt.data import files, gym, hub, procedural
from cpt.data.loaded import Rows, joined, made
from cpt.data.reading import rows_of
from cpt.errors import Problem, RecipeErrors, UserError
from cpt.recipe import File, Hub, Mixture, Procedural, ReasoningGym, Source, Written

SPLITS = ("train", "validation", "eval")
HELD_OUT_OF = "rows can only be held out of `train`, and there is none: name a file of evaluation rows"


def load(source: Source, split: str, task: str, seed: int) -> Rows:
    """The rows of one split of a task; `seed` is the recipe's data seed. Empty where the source has no such split.

    Raises:
        RecipeErrors: all that is wrong with them; the keys are those under `data` of the task.
    """
    try:
        return LOADERS[type(source)](source, split, task, seed)
    except RecipeErrors as error:
        raise RecipeErrors([replace(each, key=each.key or split) for each in error.problems]) from error
    except UserError as error:
        raise RecipeErrors([Problem(None, None, split, str(error))]) from error


def count(source: Source, split: str) -> int | None:
    """How many rows the split has; None where only loading can tell (the hub).

    Raises:
        RecipeErrors: as `load` does.
    """
    if isinstance(source, Mixture):
        numbers = [count(part.data, split) for part in source.of]
        return None if None in numbers else sum(numbers)
    if isinstance(source, File | Written):
        return len(load(source, split, "", 0))
    if isinstance(source, Hub):
        split_or_count = getattr(source, split)
        if split_or_count is None or isinstance(split_or_count, int):
            return split_or_count or 0
        slice_of = re.fullmatch(r"\w+\[(\d*):(\d+)\]", split_or_count)  # at most; the hub may hold fewer
        return int(slice_of[2]) - int(slice_of[1] or 0) if slice_of else None
    try:
        if isinstance(source, Procedural):
            procedural.check_count(source.name, split, getattr(source, split), source.length)
        else:
            gym.check(source)
    except UserError as error:
        raise RecipeErrors([Problem(None, None, split, str(error))]) from error
    return getattr(source, split)


def load_procedural(source: Procedural, split: str, task: str, seed: int) -> Rows:
    rows = procedural.rows(source.name, split, getattr(source, split), source.length, source.demonstration, seed)
    return made(rows, f"{task}/{split}")


def load_mapped(source: File | Hub, split: str, task: str, seed: int) -> Rows:
    """Rows of files or of the hub; `eval` may be a number of prompts that are held out of `train`."""
    read: Callable = files.load if isinstance(source, File) else hub.load
    if isinstance(source.eval, int) and split != "validation":
        if source.train is None:
            if split == "eval":
                raise UserError(HELD_OUT_OF)
            return Rows()
        return held_out(read(source, source.train).called(f"{task}/row"), source, split)
    what = getattr(source, split)
    return Rows() if what is None else read(source, what).called(f"{task}/{split}")


def load_written(source: Written, split: str, task: str, seed: int) -> Rows:
    records = getattr(source, split)
    if not records:
        return Rows()
    return rows_of([(f"{split} row ", enumerate(records, start=1))], source, split).called(f"{task}/{split}")


def load_mixture(source: Mixture, split: str, task: str, seed: int) -> Rows:
    """The rows of all parts, each under the name of its own task."""
    parts, problems = [], []
    for number, part in enumerate(source.of):
        try:
            parts.append(load(part.data, split, part.task, seed))
        except RecipeErrors as error:
            problems += [replace(each, key=f"of.{number}.data.{each.key}") for each in error.problems]
    if problems:
        raise RecipeErrors(problems)
    return joined(parts)


def held_out(rows: Rows, source: File | Hub, split: str) -> Rows:
    """`source.eval` different prompts with the smallest keys are evaluated; all rows with such a prompt leave training."""
    keys = [rows.key(index) for index in range(len(rows))]
    different = set(keys)
    chosen = set(sorted(different)[: source.eval])
    if len(chosen) < source.eval or len(chosen) == len(different):
        message = f"{source.eval} rows to hold out, but {source.train} has {len(different)} different prompts"
        raise RecipeErrors([Problem(None, None, "eval", message)])
    if split == "train":
        return rows.at([index for index, key in enumerate(keys) if key not in chosen])
    first = {key: index for index, key in reversed(list(enumerate(keys))) if key in chosen}
    return rows.at(sorted(first.values()))


LOADERS = {
    Procedural: load_procedural,
    ReasoningGym: gym.load,
    File: load_mapped,
    Written: load_written,
    Hub: load_mapped,
    Mixture: load_mixture,
}
