"""Kinds of a user's own, as files beside a recipe."""

from pathlib import Path

STRATEGY = '''\
import torch
from pydantic import Field
from transformers import TrainerCallback

from cpt.penalties import Penalty
from cpt.strategies import Strategy, StrategySpec
from strength import doubled


class Pull(Penalty):
    def __init__(self, strength):
        self.strength = strength

    def begin(self, weights):
        self.start = {name: weight.detach().clone() for name, weight in weights.items()}

    def gradient(self, weights):
        return {name: self.strength * (weight - 2 * self.start[name]) for name, weight in weights.items()}


class Counted(Strategy, TrainerCallback):
    """Pulls, and counts the steps of the whole stream."""

    class Options(StrategySpec):
        """The options."""

        strength: float = Field(0.01, gt=0)
        span: tuple[int, ...] = ()

    def __init__(self, recipe, spec, name):
        super().__init__(recipe, spec, name)
        self.steps = 0

    def penalties(self, stage, services):
        return [Pull(doubled(self.spec.strength))]

    def callbacks(self, stage, services):
        return [self]

    def on_step_end(self, args, state, control, **_):
        self.steps += 1

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


class NoOptions(Strategy):
    pass


def plain():
    pass
'''
STRENGTH = "def doubled(value):\n    return 2 * value\n"


def write_strategy(folder: Path) -> None:
    """mine:Counted, and a module that it imports."""
    (folder / "mine.py").write_text(STRATEGY)
    (folder / "strength.py").write_text(STRENGTH)
