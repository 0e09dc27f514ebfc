"""The hooks of a strategy. Each returns a value and touches no shared state; the defaults do nothing.

State goes from stage to stage by folder, as weights do: `load` before a stage and after a kill, `save` after a stage and in
every in-stage checkpoint. Nothing has to stay in memory between them.

A new strategy is its spec in `recipe.strategies`, which names its class, the class in a file here, and its test. One of the
user's own is a class beside the recipe, with its options in `Options` (docs/extending.md).
"""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from cpt import ranks
from cpt.files import write_json
from cpt.penalties import Penalty
from cpt.recipe import Recipe
from cpt.recipe.base import StrategySpec
from cpt.records import MergeRecord


class Outcome(NamedTuple):
    """What a strategy made of a model: a folder that takes its place, or None, and the record of a merge for results.json.

    `served` is the folder that is evaluated and shipped after the task, where the strategy decides it.
    """

    folder: Path | None = None
    record: MergeRecord | None = None
    served: Path | None = None


class Strategy:
    """Hooks that do nothing. `spec` is the recipe's; `name` (0-ema) is the place of its state in a run.

    `Options` are those of a strategy of the user's own; the fields of a built-in one stand in `recipe.strategies`.
    """

    Options: ClassVar[type[StrategySpec]] = StrategySpec

    def __init__(self, recipe: Recipe, spec: Any, name: str):
        self.recipe, self.spec, self.name = recipe, spec, name

    def before_stage(self, stage, services, rows):
        """The rows that the stage trains on (a `datasets.Dataset`)."""
        return rows

    def callbacks(self, stage, services) -> list:
        """transformers' TrainerCallbacks for the stage."""
        return []

    def penalties(self, stage, services) -> list[Penalty]:
        """What is added to the stage's loss, or to the gradients of its optimiser steps."""
        return []

    def batches(self, stage, services) -> Callable[[Any], Any] | None:
        """What makes the sampler of the stage's training rows (`torch.utils.data.Sampler`, indices) of the usual one, or
        None. One strategy of a recipe may."""
        return None

    def reference(self, stage, services, weights: Mapping[str, Any]) -> None:
        """The weights of the KL's reference, by the names of the policy's trained ones; none where the stage has no KL.

        A strategy may write to them while the stage trains. Called when its callbacks are made.
        """

    def rollout_policy(self, stage, services) -> Callable[[], AbstractContextManager[bool]] | None:
        """What is opened around rollouts of rlvr and hybrid stages, or None.

        While it is open the policy has the weights that answer; it says whether they are others than the policy's own.
        """
        return None

    def saved(self, stage, services, model, save: Callable[[Path], None]) -> None:
        """The stage's weights are saved, and still in `model`. `save(folder)` saves it again, as it is then.

        What a strategy writes to the model it takes back (`tensors.put_back`): those after it look at the stage's weights
        too. On all ranks; `save` is a collective.
        """

    def after_stage(self, stage, services, rows) -> Outcome | None:
        """What replaces the stage's model, `stage.target` (the folder is moved there); None: nothing.

        On all ranks. The record is added to the `merges` of the stage.
        """
        return None

    def after_task(self, stage, services, model: Path) -> Outcome | None:
        """What replaces the task's `model`; None: nothing. `stage` is the task's last one.

        `model` is what the strategies before this one left. On all ranks. The record is added to the `merges` of the stage.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""

    def save(self, folder: Path) -> None:
        """Write the state to `folder`, on all ranks. A strategy that keeps tensors adds its files."""
        if ranks.is_main():
            write_json(folder / "state.json", self.state_dict())

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote; a folder that is not there is the beginning of the stream."""
        if (folder / "state.json").is_file():
            self.load_state_dict(json.loads((folder / "state.json").read_text(encoding="utf-8")))
