"""A trainer as the callbacks of strategies see it: a small model whose weights are set, step by step."""

from types import SimpleNamespace

import torch

from cpt.recipe.merge import Merge as MergeSpec
from cpt.recipe.strategies import Ema as EmaSpec
from cpt.recipe.strategies import Lookahead as LookaheadSpec
from cpt.recipe.strategies import Mcl as MclSpec
from cpt.recipe.strategies import StochasticRestore as RestoreSpec
from cpt.strategies import make
from helpers.contexts import stage_and_services

SPECS = {
    "ema": EmaSpec,
    "mcl": MclSpec,
    "lookahead": LookaheadSpec,
    "stochastic-restore": RestoreSpec,
    "merge": MergeSpec,
}


def made_all(*wanted: tuple[str, dict]) -> list:
    """The strategies of a recipe's list of (kind, options)."""
    specs = [SPECS[kind](kind=kind, **options) for kind, options in wanted]
    recipe = SimpleNamespace(strategies=specs)
    return make(recipe)


def made(kind: str, **options):
    """The one strategy of a recipe."""
    return made_all((kind, options))[0]


def context(folder, task: str = "one"):
    return stage_and_services(task=SimpleNamespace(name=task), target=folder / "model")


class Training:
    """AdamW on two tensors, whose gradients the test sets. Hooks come as transformers' Trainer calls them."""

    def __init__(self, folder, *strategies, start: float = 0.0, step: int = 0):
        self.model = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.state, self.strategies = SimpleNamespace(global_step=step), strategies
        self.stage, self.services = context(folder)
        self.put(start)
        self.callbacks = []
        for strategy in strategies:
            strategy.before_stage(self.stage, self.services, None)
            self.callbacks += strategy.callbacks(self.stage, self.services)
        self.call("on_train_begin", model=self.model)

    def call(self, name: str, **more) -> None:
        arguments = SimpleNamespace(optim=SimpleNamespace(value="adamw_torch"))
        for callback in self.callbacks:
            if hasattr(callback, name):
                getattr(callback, name)(arguments, self.state, None, optimizer=self.optimizer, **more)

    def put(self, value: float) -> None:
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.fill_(value)

    def step(self, value: float | None = None, gradient: float = 0.0) -> None:
        """The optimiser takes its own step, or (`value`) puts that number in all weights."""
        for place, weight in enumerate(self.model.parameters()):
            weight.grad = torch.full_like(weight, gradient) * (1 + place)
        self.call("on_pre_optimizer_step")
        self.optimizer.step() if value is None else self.put(value)
        self.call("on_optimizer_step")
        self.optimizer.zero_grad()
        self.state.global_step += 1
        self.call("on_step_end")

    def log(self) -> dict:
        logs = {}
        self.call("on_log", logs=logs)
        return logs

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def saved(self) -> dict[str, dict[str, torch.Tensor]]:
        """What each strategy writes at the stage's end, by its name; in the recipe's order, as `stages.training` does."""
        self.call("on_train_end")
        written = {}
        for strategy in self.strategies:
            strategy.saved(
                self.stage,
                self.services,
                self.model,
                lambda folder, name=strategy.name: written.update({name: self.weights()}),
            )
        return written

    def served(self) -> float:
        """The one number in all weights of what a single strategy writes."""
        (written,) = self.saved().values()
        return written["weight"][0, 0].item()
