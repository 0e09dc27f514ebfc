"""What callbacks of strategies see of a trainer whose weights the test sets, and recipes with strategies."""

from types import SimpleNamespace

import torch

from cpt.recipe.strategies import Ema as EmaSpec
from cpt.strategies.ema.strategy import Ema
from helpers.contexts import stage_and_services
from helpers.recipes import short


def with_strategies(*specs: dict, steps: int = 6, **more) -> dict:
    content = short("sft", steps=steps, **more)
    for task in content["stream"]:
        task["stages"][0]["args"] |= {"save_steps": 2}
    return content | {"strategies": list(specs)}


def files_of(run, name: str) -> dict[str, bytes]:
    """The tensors of every point's folder `name`."""
    return {str(f.relative_to(run)): f.read_bytes() for f in sorted(run.glob(f"points/*/{name}/**/*.safetensors"))}


def ema(**options) -> Ema:
    return Ema(None, EmaSpec(kind="ema", **options), "0-ema")


def context(folder, task: str = "one"):
    return stage_and_services(task=SimpleNamespace(name=task), target=folder / "model")


class Training:
    """A trainer as its callbacks see it: a small model whose weights are told, step by step."""

    def __init__(self, folder, step: int = 0):
        self.model = torch.nn.Linear(3, 2)
        self.state = SimpleNamespace(global_step=step)
        self.stage, self.services = context(folder)

    def begin(self, strategy) -> None:
        strategy.before_stage(self.stage, self.services, None)
        (self.callback,) = strategy.callbacks(self.stage, self.services)
        self.callback.on_train_begin(None, self.state, None, model=self.model)

    def step(self, value: float, gradient: float = 0.0) -> None:
        """The optimiser puts `value` in all weights."""
        for weight in self.model.parameters():
            weight.grad = torch.full_like(weight, gradient)
        if hasattr(self.callback, "on_pre_optimizer_step"):
            self.callback.on_pre_optimizer_step(None, self.state, None)
        self.put(value)
        if hasattr(self.callback, "on_optimizer_step"):
            self.callback.on_optimizer_step(None, self.state, None)
        self.state.global_step += 1
        self.callback.on_step_end(None, self.state, None)

    def put(self, value: float) -> None:
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.fill_(value)

    def end(self, strategy) -> float | None:
        """The one number that what `saved` writes holds; None where it writes nothing."""
        written = []
        strategy.saved(
            self.stage, self.services, self.model, lambda folder: written.append(self.model.weight[0, 0].item())
        )
        strategy.after_stage(self.stage, self.services, None)
        return written[0] if written else None
