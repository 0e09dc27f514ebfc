"""A method of merging within a run: which models it merges, with what weights, and what it does while stages train."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from cpt.adapters import is_adapter
from cpt.records import Rehearsal


@dataclass(frozen=True)
class Inputs:
    """What is merged: `models`, the new one first, and the Fisher diagonals of these, where the method has such.

    `points` are the models of earlier points among them, or that they are measured from. `rehearsal` is what a second model,
    trained for the merge, cost.
    """

    models: list[Path]
    points: list[Path]
    fishers: list[Path] = field(default_factory=list)
    rehearsal: Rehearsal | None = None


class RunMethod:
    """A method within a run. `spec` is the recipe's; `name` (0-merge) that of the strategy. The hooks here do nothing."""

    uses_base = True  # whether 00-base can be one of the models that are merged

    def __init__(self, spec: Any, name: str):
        self.spec, self.name, self.facts = spec, name, spec.facts

    # -- while stages train --------------------------------------------------------------------------------------------

    def before_stage(self) -> None:
        """A stage begins."""

    def callbacks(self, stage) -> list:
        """transformers' TrainerCallbacks for the stage."""
        return []

    def saved(self, stage, model, save: Callable[[Path], None]) -> None:
        """See `Strategy.saved`."""

    def save(self, folder: Path) -> None:
        """Write what the method keeps beside the strategy's state."""

    # -- what is merged ------------------------------------------------------------------------------------------------

    def inputs(self, stage, services, model: Path, before: Sequence[Path], factors: bool, place: Path) -> Inputs:
        """What `model` is merged with, of what came `before` it; `place` is a folder of the strategy's own. On all ranks.

        `factors`: adapters are merged as adapters. A stage that trained nothing left the untouched model, which is none.
        """
        old = self.old_models(before, factors)
        if factors:
            old = [each for each in old if is_adapter(each)] if is_adapter(model) else []
        return Inputs([model, *old], old)

    def old_models(self, points: Sequence[Path], factors: bool) -> list[Path]:
        """The points that `sources` names, as far as the method can merge them; under an adapter 00-base has none."""
        if self.spec.sources == "base":
            return [points[0]] if self.uses_base else []
        usable = list(points if self.uses_base and not factors else points[1:])
        return usable if self.spec.sources == "all" else usable[-1:]

    def can_merge(self, models: Sequence[Path]) -> bool:
        return len(models) >= self.facts.least

    # -- how strongly --------------------------------------------------------------------------------------------------

    def value(self, task: int) -> float | None:
        """The weight or scale that the recipe gives in task number `task` (1: the first); None where the method has none."""
        if self.spec.option is None:
            return None
        value = self.spec.scheduled[task - 1] if self.spec.scheduled else getattr(self.spec, self.spec.option)
        value = self.default() if value is None else value
        return (task - 1) / task if value == "average" else value

    def default(self) -> float | str:
        """The value where the recipe has none; `average`: an equal share of each task."""
        return self.facts.weight if self.spec.option == "weight" else self.facts.defaults[self.spec.option]

    def changes(self, value: float | None) -> bool:
        """Whether a merge with this weight or scale is another model than the new one."""
        return not (self.spec.option == "weight" and value == 0)

    def searched(self) -> list[float]:
        """The values of a search, from the new model to the old one: rising weights (0 is the new model), falling scales."""
        if self.spec.option == "weight":
            return sorted(value for value in self.spec.search if value > 0)
        return sorted(self.spec.search, reverse=True)

    def arguments(self, stage, inputs: Inputs, value: float | None) -> dict[str, Any]:
        """What `cpt.merging.merge.merge` is given besides models and Fishers: method, base, weights and options."""
        raise NotImplementedError


def method_of(spec: Any, name: str) -> RunMethod:
    """The method that a recipe's `merge` names."""
    module, kind = spec.facts.in_run.split(".")
    return getattr(import_module(f"cpt.strategies.merge.{module}"), kind)(spec, name)
