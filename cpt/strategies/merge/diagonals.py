"""Diagonals of the Fisher information, taken from Adam: what `merge` with `method: fisher` weighs models by.

Adam keeps a mean of squared gradients for each weight, which does the work of the diagonal ("Squisher", 2507.18807): it costs
no pass over any data. v / (1 - beta2^steps) at the end of a stage differs from the Fisher of the likelihood:

- the gradient is the batch's mean, squared after that (of pure noise, a B-th of the mean of squares for a batch of B);
- it is clipped before (`max_grad_norm`);
- it is a mean over the last 1 / (1 - beta2) steps or so, so partly of weights that the stage has left;
- it is of the objective that the stage had: of the rows' own answers (SFT), of rewarded ones (RL), not of answers drawn
  from the model.

So stages of other batches or objectives have diagonals of another scale; the merge's `weight` makes up for it.

The diagonal of a task is the sum over its stages (each trained, none is forgotten); rounds of a rejection stage count as one,
the last. That of a point into which earlier tasks are merged is the sum over all tasks so far, for precisions add
(2111.09832; IMM-mode, 1703.08475, scales by shares besides). It stays with the point: `strategies/NAME/fisher.safetensors`,
float32. Where an `ema` that is fed back is merged, the diagonal is still that of the trained weights.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from transformers import TrainerCallback

from cpt import ranks
from cpt.disk import writing
from cpt.errors import UserError
from cpt.merging.reading import Weights
from cpt.merging.writing import Shape, Writer
from cpt.sharding import is_sharded
from cpt.strategies import tensors

FILE = "fisher.safetensors"


class AdamSecondMoments(TrainerCallback):
    """Keeps hold of the optimiser until its second moments are read, and refuses one that has none."""

    def __init__(self, key: str):
        self.key, self.weights, self.optimizer = key, [], None

    def on_train_begin(self, args, state, control, model=None, **_):
        if is_sharded():
            raise UserError(
                f"{self.key}: the merge by fisher needs whole squares of gradients, which DeepSpeed and FSDP do not "
                "keep"
            )
        self.weights = list(tensors.trained(model).values())

    def on_step_end(self, args, state, control, optimizer=None, **_):
        """Looked at with the first step, not when a stage of hours is over."""
        if self.optimizer is None and not has_second_moments(optimizer, self.weights):
            raise UserError(
                f"{self.key}.args.optim: {args.optim.value} keeps no whole mean of squared gradients (exp_avg_sq), "
                "which the merge by fisher needs: use adamw_torch"
            )
        self.optimizer = optimizer

    def on_train_end(self, args, state, control, optimizer=None, **_):
        self.optimizer = optimizer


def has_second_moments(optimizer, weights: Sequence[torch.Tensor]) -> bool:
    """Whether each weight that has been trained has Adam's second moments, one for each of its elements."""
    known = [(weight.shape, optimizer.state[weight]) for weight in weights if optimizer.state.get(weight)]
    adam = all("betas" in group for group in optimizer.param_groups) and bool(known)
    return adam and all("step" in s and "exp_avg_sq" in s and s["exp_avg_sq"].shape == shape for shape, s in known)


def floats_of(model) -> list[torch.Tensor]:
    """What is saved of the model and is no integer: all its tensors, the untrained among them, or an adapter's."""
    if hasattr(model, "peft_config"):
        return [weight.detach() for weight in tensors.trained(model).values()]
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


@torch.no_grad()
def put_second_moments(model, optimizer) -> None:
    """v / (1 - beta2^steps) instead of each trained weight of the model, in its dtype; 0 in that of all else."""
    torch._foreach_zero_(floats_of(model))
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if known := optimizer.state.get(weight):
                weight.copy_(known["exp_avg_sq"] / (1 - group["betas"][1] ** float(known["step"])))


class Diagonals:
    """The diagonals of a run, for the merge `name`. `of_all`: its points are merges of all tasks so far."""

    def __init__(self, name: str, of_all: bool):
        self.name, self.of_all = name, of_all
        self.moments: AdamSecondMoments | None = None
        self.point: Path | None = None  # the file of the point that is being made

    def before_stage(self) -> None:
        self.point = None

    def callback(self, stage) -> AdamSecondMoments:
        self.moments = AdamSecondMoments(stage.key)
        return self.moments

    def saved(self, stage, model, save: Callable[[Path], None]) -> None:
        """The stage's diagonal beside its model, as a model, so that the names are those of saved models. On all ranks."""
        with tensors.put_back(floats_of(model)):
            put_second_moments(model, self.moments.optimizer)
            save(stage.target.parent / self.name)
        self.moments = None

    def after_task(self, stage, models: Sequence[Path]) -> tuple[list[Path], list[Path]]:
        """Those of `models` (the new one first) that have a diagonal, and the files of these. On all ranks.

        A task that trained nothing has none, and then nothing is merged.
        """
        work = stage.target.parents[1]
        stages = [place for place in sorted(work.glob(f"[0-9]*/{self.name}")) if any(place.glob("*.safetensors"))]
        before = self.at(stage.points[-1])
        task = self._sum(stages, work / self.name / "of-task")
        if self.of_all and before.is_file():
            self.point = self._sum([before, task], work / self.name / "of-point") if task else before
        else:
            self.point = task
        if task is None:
            return [models[0]], []
        old = [model for model in models[1:] if self.at(model).is_file()]
        return [models[0], *old], [task, *map(self.at, old)]

    def at(self, model: Path) -> Path:
        """Where the point of `model` has its diagonal."""
        return model.parent / "strategies" / self.name / FILE

    def _sum(self, places: Sequence[Path], folder: Path) -> Path | None:
        if not places:
            return None
        ranks.on_main(add, places, folder)
        return folder / FILE

    def save(self, folder: Path) -> None:
        """The point's file, as a second name of it: no copy."""
        if self.point is not None and ranks.is_main():
            os.link(self.point, folder / FILE)


def add(places: Sequence[Path], folder: Path) -> None:
    """The sum of diagonals (files, or folders of a model's shape) as a file in `folder`: float32, a tensor at a time."""
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder), ExitStack() as stack:
        folder.mkdir(parents=True)
        sources = [stack.enter_context(Weights(place)) for place in places]
        floats = {name: each for name, each in sources[0].entries.items() if each.dtype.is_floating_point}
        shapes = {name: Shape(torch.float32, each.shape) for name, each in floats.items()}
        writer = Writer(folder, shapes, sum(shape.bytes for shape in shapes.values()), Path(FILE).stem)
        try:
            for name in shapes:
                writer.write(name, 0, sum(source.tensor(name).float() for source in sources))
            writer.close()
        finally:
            writer.abandon()
