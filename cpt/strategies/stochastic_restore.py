"""Stochastic restore (CoTTA, 2203.13591): after a step each weight goes back to its anchor by a small chance.

The anchor is the trained weights (an adapter's, where one is trained) as the stream, or the task, began with them. Who goes
back depends on the stage's seed, the step and the strategy's place among those of its kind alone. So a resumed stage restores
the same weights, every process of a data-parallel run the same as the others, and two of these strategies each its own.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from cpt.errors import UserError
from cpt.sharding import is_sharded
from cpt.strategies import tensors
from cpt.strategies.base import Strategy


class StochasticRestore(Strategy, TrainerCallback):
    """The strategy, and its own callback."""

    def __init__(self, recipe, spec, name):
        super().__init__(recipe, spec, name)
        self.task, self.anchor = "", {}
        before = recipe.strategies[: int(name.split("-")[0])]
        self.number = sum(each.kind == spec.kind for each in before)  # of those of its kind

    def before_stage(self, stage, services, rows):
        if self.spec.to == "task-start" and self.task != stage.task.name:
            self.anchor = {}
        self.task, self.seed, self.key = stage.task.name, stage.seed, stage.key
        return rows

    def callbacks(self, stage, services) -> list:
        return [self]

    def after_stage(self, stage, services, rows) -> None:
        self.weights = {}

    def on_train_begin(self, args, state, control, model=None, **_):
        if is_sharded():
            raise UserError(f"{self.key}: stochastic-restore needs whole weights, which DeepSpeed and FSDP do not keep")
        self.weights = tensors.trained(model)
        start = self.anchor or self.weights
        self.anchor = {name: start[name].detach().to(weight.device, copy=True) for name, weight in self.weights.items()}

    @torch.no_grad()
    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.spec.every:
            return
        digest = hashlib.sha256(f"{self.seed} {state.global_step} {self.number}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        for name, weight in self.weights.items():
            back = torch.rand(weight.shape, generator=generator) < self.spec.probability
            weight.copy_(torch.where(back.to(weight.device), self.anchor[name], weight))

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"task": self.task}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task = state["task"]

    def save(self, folder: Path) -> None:
        super().save(folder)
        tensors.write(folder, self.anchor)

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.anchor = tensors.read(folder)
