"""What a sweep's file may say (docs/compare.md)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from cpt.errors import Problem, RecipeErrors, nearest_or_all
from cpt.metric_kinds import KINDS
from cpt.recipe.base import Name, Strict
from cpt.recipe.messages import validate
from cpt.recipe.nodes import Mistakes, find, text_of
from cpt.recipe.python_values import from_python
from cpt.recipe.yaml_reader import Node, parse

Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Values = dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]


class SweepRecipe(Strict):
    """One of the recipes that are run."""

    recipe: str = Field(description="This is a shipped recipe's name, or a file (relative to the sweep's own).")
    name: Name | None = Field(None, description="The report calls the recipe by this name; if null, by its own.")
    set: dict[str, Any] = Field({}, description="These dotted keys have other values than in the recipe.")


class Tune(Strict):
    """Values are chosen on another stream than the one that is judged."""

    recipe: str | None = Field(
        None, description="Values are tried on this recipe; if null, on the judged one with `set`."
    )
    set: dict[str, Any] = Field({}, description="These dotted keys have other values while values are tried.")
    values: Values = Field(min_length=1, description="Each combination of these values of dotted keys is tried.")
    seeds: Seeds = Field((0,), description="Each combination is tried with these seeds.")
    by: str = Field("average_accuracy", description="The combination with the best mean of this metric is taken.")

    @model_validator(mode="after")
    def known_metric(self):
        if self.by not in KINDS:
            raise ValueError(f"`by` must be a metric of a stream, not {self.by}{nearest_or_all(self.by, KINDS)}")
        return self


class Sweep(Strict):
    """Every recipe with every order, every combination of values, and every seed."""

    name: Name = Field(
        description="This is the sweep's name; its folder is runs/sweeps/NAME unless `--out` names another."
    )
    description: str = Field("", description="This text describes the sweep; it changes nothing.")
    recipes: tuple[str | SweepRecipe, ...] = Field(min_length=1, description="These recipes are run.")
    seeds: Seeds = Field((0,), description="Each recipe is run with these seeds.")
    orders: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = Field(
        (), description="The stream's tasks come in each of these orders; if empty, in the recipe's own."
    )
    values: Values = Field({}, description="Each combination of these values of dotted keys is run.")
    set: dict[str, Any] = Field({}, description="These dotted keys have other values in all recipes.")
    baseline: str | None = Field(
        None, description="The others are compared with the first cell of this recipe; if null, with the first of all."
    )
    tune: Tune | None = Field(
        None, description="Values are first chosen on another stream; the recipe is then run with and without them."
    )
    launcher: tuple[str, ...] = Field(
        (), description="These words start a cell instead of `python -m cpt`, such as accelerate launch ... -m cpt."
    )
    slurm: dict[str, str | int] = Field(
        {}, description="These options of sbatch are written into the script of --slurm."
    )

    @model_validator(mode="after")
    def holds_together(self):
        if any(len(set(each)) < len(each) for each in (self.seeds, *self.orders)):
            raise ValueError("a seed, or a task of an order, stands there twice: remove one")
        if self.tune is not None and len(self.recipes) > 1:
            raise ValueError("`tune` needs exactly one recipe to judge: make a sweep for each")
        if self.tune is not None and self.values:
            raise ValueError("`values` and `tune` do not go together: write the values under `tune`")
        if self.tune is not None and (both := set(self.seeds) & set(self.tune.seeds)):
            raise ValueError(
                f"seed {min(both)} is tuned with and judged with: give `tune.seeds` and `seeds` different ones"
            )
        return self

    @property
    def named(self) -> list[SweepRecipe]:
        return [SweepRecipe(recipe=each) if isinstance(each, str) else each for each in self.recipes]


SweepLike = str | Path | Mapping[str, Any]


def load_sweep(name: SweepLike) -> tuple[Sweep, Node, Path]:
    """The sweep of that name (shipped), in that file, or of that dictionary; its nodes, and the folder of relative files.

    Raises:
        RecipeErrors: every mistake in the file itself.
    """
    if isinstance(name, Mapping):
        root, folder = from_python(name), Path.cwd()
    else:
        file = find("recipes/sweeps", name)
        root, folder = parse(text_of(file), file), file.resolve().parent
        if not isinstance(root.value, dict):
            raise RecipeErrors([Problem(file, None, "", "must be a map of keys to values")])
    mistakes = Mistakes()
    sweep = validate(Sweep, root, mistakes)
    mistakes.check()
    return sweep, root, folder
