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


STAGE = """\
from pydantic import Field

from cpt.data.rows import unpack
from cpt.recipe.stages import Sft
from cpt.stages import StageKind, StageSpec, sft


class Shortest(StageKind):
    class Options(Sft):
        share: float = Field(0.5, gt=0, le=1)

        def details(self):
            return [f"on the {self.share:.0%} of rows with the shortest demonstrations"]

    def run(self, stage, services, rows, strategies):
        lengths = [len(row["demonstration"]) for row in unpack(rows["prompt"], rows["row"])]
        order = sorted(range(len(rows)), key=lengths.__getitem__)
        kept = sorted(order[: int(len(rows) * stage.spec.share)])
        services.notes.append(f"trained on {len(kept)} of {len(rows)} rows")
        return sft.run(stage, services, rows.select(kept), strategies)


class NoRun(StageKind):
    class Options(Sft):
        pass


class NoFacts(Shortest):
    class Options(StageSpec):
        pass


class WrongForm(Shortest):
    class Options(StageSpec):
        trl_config = "SFTConfig"
        row_form = "demonstrations"
"""
SUITE = """\
import random

from pydantic import Field

from cpt.evaluation import SuiteKind, SuiteSpec


class Copies(SuiteKind):
    class Options(SuiteSpec):
        count: int = Field(3, gt=0, le=24)

    def tasks(self):
        rows = [{"prompt": f"copy{letter}=", "answer": letter} for letter in "abcdefghijklmnopqrstuvwx"]
        data = {"source": "rows", "eval": rows[: self.spec.count]}
        return [{"task": "one", "data": data, "reward": "judge:half", "metric": "judge:half", "max_completion_length": 8}]


class NoTasks(SuiteKind):
    pass


class Random(Copies):
    def tasks(self):
        return [{"task": f"t{random.random()}"}]


class Raises(Copies):
    def tasks(self):
        return self.nothing


class Wrong(Copies):
    def tasks(self):
        return [{"task": "one", "data": {"source": "rows", "eval": []}, "rewards": "exact"}]
"""
JUDGE = "def half(completion, row):\n    return 0.5\n"
