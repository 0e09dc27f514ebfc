"""The cells of a sweep: each is a resolved recipe with a seed, and has a run directory of its own."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpt.errors import Problem, RecipeErrors
from cpt.recipe import Recipe, identity, load
from cpt.recipe.nodes import COMMAND_LINE
from cpt.recipe.python_values import PYTHON
from cpt.recipe.yaml_reader import Node
from cpt.sweeps.schema import Sweep, SweepRecipe

LONGEST = 60  # characters of a label in a folder's name


@dataclass(frozen=True)
class Cell:
    """One run. `label` names its group: all but the seed."""

    label: str
    seed: int
    recipe: Recipe = field(repr=False)

    @property
    def name(self) -> str:
        """Of its folder: what it is, its seed, and six digits of all that its recipe says."""
        slug = re.sub(r"[^A-Za-z0-9._=-]+", "-", self.label).strip("-")[:LONGEST]
        return f"{slug}-s{self.seed}-{identity(self.recipe)}"


@dataclass(frozen=True)
class Variant:
    """A recipe with its settings, without a seed."""

    label: str
    recipe: str
    settings: tuple[tuple[str, Any], ...]
    order: tuple[str, ...] = ()
    place: tuple[str | int, ...] = ()  # of the recipe in the sweep's file, for mistakes

    def cell(self, seed: int) -> Cell:
        """Raises RecipeErrors."""
        recipe = load(self.recipe, [*self.settings, ("seed", seed)])
        return Cell(self.label, seed, in_order(recipe, self.order) if self.order else recipe)


def in_order(recipe: Recipe, order: tuple[str, ...]) -> Recipe:
    tasks = {task.task: task for task in recipe.stream}
    if set(order) != set(tasks):
        raise RecipeErrors(
            [
                Problem(
                    None, None, "orders", f"{', '.join(order)} are not the tasks of {recipe.name}: {', '.join(tasks)}"
                )
            ]
        )
    return recipe.model_copy(update={"stream": tuple(tasks[name] for name in order)})


def variants(sweep: Sweep, folder: Path) -> list[Variant]:
    """Every recipe with every order and every combination of values, in the order of the file."""
    made = []
    for number, (entry, order, values) in enumerate(
        itertools.product(sweep.named, sweep.orders or ((),), combinations(sweep.values))
    ):
        place = number // (max(1, len(sweep.orders)) * len(list(combinations(sweep.values))))
        label = labelled(name_of(entry), values, order if len(sweep.orders) > 1 else ())
        settings = (*sweep.set.items(), *entry.set.items(), *values.items())
        made.append(Variant(label, found(entry.recipe, folder), settings, order, ("recipes", place)))
    return made


def combinations(values: Mapping[str, tuple]) -> Iterator[dict[str, Any]]:
    """Every choice of one value for each key."""
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def name_of(entry: SweepRecipe) -> str:
    return entry.name or Path(entry.recipe).stem


def labelled(name: str, values: Mapping[str, Any], order: tuple[str, ...]) -> str:
    """`quickstart, learning_rate=0.0002`: the last step of each key tells it apart, unless two share it."""
    lasts = [key.rpartition(".")[2] for key in values]
    keys = [last if lasts.count(last) == 1 else key for key, last in zip(values, lasts, strict=True)]
    parts = [f"{key}={as_text(value)}" for key, value in zip(keys, values.values(), strict=True)]
    parts += [f"order {' '.join(order)}"] if order else []
    return ", ".join([name, *parts])


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def found(recipe: str, folder: Path) -> str:
    """The recipe's file where it lies beside the sweep's, else what was written: a shipped name, or a path."""
    beside = folder / recipe
    return str(beside) if beside.is_file() else recipe


def cells_of(these: list[Variant], seeds: tuple[int, ...], root: Node) -> tuple[list[Cell], list[Problem]]:
    """The cells seed by seed, so that a comparison of fewer seeds is whole first; and what is wrong with their recipes."""
    cells, problems = [], []
    for seed in seeds:
        for variant in these:
            try:
                cells.append(variant.cell(seed))
            except RecipeErrors as error:
                problems += [placed(problem, variant, root) for problem in error.problems]
    return cells, list(dict.fromkeys(problems))


def placed(problem: Problem, variant: Variant, root: Node) -> Problem:
    """A mistake in what the sweep sets, at its place in the sweep's file; others are where the recipe's files have them."""
    if problem.file not in (None, PYTHON, COMMAND_LINE):
        return problem
    for steps in (("tune", "values"), ("tune", "set"), ("values",), (*variant.place, "set"), ("set",), variant.place):
        node = root.at(steps)
        if steps == variant.place or not isinstance(node.value, dict):
            continue
        for key, inside in node.value.items():
            if problem.key == key or problem.key.startswith(f"{key}.") or similar(problem.key, key):
                return Problem(inside.file, inside.line, ".".join(map(str, (*steps, key))), message_of(problem, key))
    node = root.at(("orders",) if problem.key == "orders" else variant.place)
    message = problem.message if problem.key in ("", "orders") else f"{problem.key}: {problem.message}"
    return Problem(node.file, node.line, "orders" if problem.key == "orders" else "recipes", message)


def similar(key: str, setting: str) -> bool:
    """Whether the message's key (`stream.0.stages...`) is of a setting that names its task, or that stands in `defaults`."""
    last = setting.rpartition(".")[2]
    return key.rpartition(".")[2] == last and key.split(".")[0] in ("stream", setting.split(".")[0])


def message_of(problem: Problem, key: str) -> str:
    return problem.message if problem.key == key else f"{problem.key}: {problem.message}"
