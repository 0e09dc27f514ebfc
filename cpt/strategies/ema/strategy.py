"""Averages of the weights: `ema` (Polyak; BEMA, 2508.00180; LCIA, 2410.10868; PSMT, 2407.02253), and `mcl` (2211.03186).

The average is of the trained weights alone (an adapter's, where one is trained). What is served is evaluated and shipped;
what is passed to the next task is another question (`feed_back`). The rules are in `rules`, one a file.

The reference of a KL is the weights that its stage starts from: with `feed_back` those are the average as it was then.
With `reference: ema` it moves on with the average (WARP, 2406.16768; TRL's sync_ref_model is that for one rule, full
weights and one process). With `rollouts: ema` the average answers, and is the old policy of the importance ratio.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from cpt.recipe import Recipe
from cpt.strategies import tensors
from cpt.strategies.base import Outcome, Strategy
from cpt.strategies.ema.callback import AverageCallback


class Ema(Strategy):
    """Keeps the average over stages: `steps` and `updates` count from the beginning of the span."""

    def __init__(self, recipe: Recipe, spec: Any, name: str):
        super().__init__(recipe, spec, name)
        self.task, self.steps, self.updates = "", 0, 0
        self.callback: AverageCallback | None = None  # of the stage under way
        self.kept: dict[str, torch.Tensor] = {}  # as loaded; empty where the average has not begun

    def before_stage(self, stage, services, rows):
        if self.spec.span == "task" and self.task != stage.task.name:
            self.steps, self.updates, self.kept = 0, 0, {}
        self.task = stage.task.name
        return rows

    def callbacks(self, stage, services) -> list:
        self._let_go()  # of the round before, where a stage trains in rounds
        self.callback = AverageCallback(self, stage.key)
        return [self.callback]

    def reference(self, stage, services, weights: Mapping[str, torch.Tensor]) -> None:
        if self.spec.reference == "ema":
            self.callback.reference = list(weights.values())

    def rollout_policy(self, stage, services) -> Callable[[], AbstractContextManager[bool]] | None:
        return self.callback.swapped_in if self.spec.rollouts == "ema" else None

    def saved(self, stage, services, model, save: Callable[[Path], None]) -> None:
        """The average as a model, beside the stage's own."""
        if self.callback.rule is not None:
            served, weights = self.callback.served(), self.callback.weights
            with tensors.put_back(weights), torch.no_grad():
                torch._foreach_copy_(weights, served)
                save(self.folder(stage, services))

    def after_stage(self, stage, services, rows) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self.callback is not None:
            self.kept, self.callback = self.callback.state(), None

    def folder(self, stage, services) -> Path:
        return stage.target.parent / self.name

    def after_task(self, stage, services, model: Path) -> Outcome | None:
        if not self.has_begun(stage, services):
            return None
        folder, spec = self.folder(stage, services), self.spec
        return Outcome(folder if spec.feed_back else None, served=folder if spec.serve == "ema" else None)

    def has_begun(self, stage, services) -> bool:
        """Whether the stage left an average: not before `start`, nor where a stage of rejection trained on nothing."""
        return any(self.folder(stage, services).glob("*.safetensors"))

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"task": self.task, "steps": self.steps, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task, self.steps, self.updates = state["task"], state["steps"], state["updates"]

    def save(self, folder: Path) -> None:
        super().save(folder)
        tensors.write(folder, self.callback.state() if self.callback is not None else self.kept)

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.kept = tensors.read(folder)
