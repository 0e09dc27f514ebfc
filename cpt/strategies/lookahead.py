"""Look-ahead (1907.08610): every k steps slow weights go a part of the way to the live ones, which continue from there.

The optimiser's state is kept as it is (the paper's default). Slow weights begin again with each stage, at its start.
"""

from pathlib import Path

import torch
from transformers import TrainerCallback

from cpt.strategies import tensors
from cpt.strategies.base import Strategy


class Lookahead(Strategy, TrainerCallback):
    """The strategy, and its own callback: within a stage it holds the slow weights."""

    slow: dict[str, torch.Tensor]

    def before_stage(self, stage, services, rows):
        self.slow = {}
        return rows

    def callbacks(self, stage, services) -> list:
        return [self]

    def after_stage(self, stage, services, rows) -> None:
        self.slow, self.weights = {}, {}

    def on_train_begin(self, args, state, control, model=None, **_):
        self.weights = tensors.trained(model)
        start = self.slow or self.weights
        self.slow = {name: start[name].detach().to(weight.device, copy=True) for name, weight in self.weights.items()}

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.spec.every == 0:
            fast, slow = list(self.weights.values()), list(self.slow.values())
            with torch.no_grad():
                torch._foreach_lerp_(slow, fast, self.spec.alpha)
                torch._foreach_copy_(fast, slow)

    def save(self, folder: Path) -> None:
        super().save(folder)
        tensors.write(folder, self.slow)

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.slow = tensors.read(folder)
