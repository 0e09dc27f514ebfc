"""The step size of OBLR-PO (2511.23310): the learning rate of each step times SNR / (1 + SNR).

    SNR = |E g|^2 / tr Var g        of the gradient g of the step

The paper scales the step of plain gradient descent. Here, under Adam, which a scaled gradient would not move, the learning
rate is scaled while the optimiser steps and put back before the schedule continues, so the schedule and a resumed run know
nothing of it. Decoupled weight decay is scaled with it, as by a schedule. The K micro-batches of all processes are the
samples s_k of g, with mean m and variance V = sum |s_k - m|^2 / (K - 1): tr Var g is estimated by V / K, and |E g|^2 without
bias by |m|^2 - V / K, so that

    SNR / (1 + SNR) = 1 - V / (K |m|^2)

which noise alone makes about 0 (with |m|^2 for |E g|^2 it would be 1/2). Samples must be independent, and the answers of
one prompt are not: TRL deals them out over all micro-batches, which hid some 40 % of the noise where it was measured (the
built-in toy model on reverse). So here all answers of a prompt are in one micro-batch. Nothing is kept from step to step.
"""

import math

import torch
from transformers import TrainerCallback
from trl.trainer.utils import split_tensor_dict

from cpt.errors import UserError
from cpt.sharding import is_sharded


def signal_to_noise(total: float, mean: float, count: int) -> float:
    """The SNR of the mean of `count` (2 or more) samples, 0 or more: `total` is sum |s_k|^2, `mean` |m|^2.

    Infinite where the samples are alike, 0 where all are 0, NaN where one is not finite.
    """
    if not math.isfinite(total + mean):
        return math.nan
    noise = max(0.0, total - count * mean) / (count - 1) / count
    signal = max(0.0, mean - noise)
    if noise == 0.0:
        return math.inf if signal > 0 else 0.0
    return signal / noise


def multiplier(snr: float, least: float, most: float) -> float:
    """SNR / (1 + SNR) within its bounds; the least where there is no SNR (NaN)."""
    if math.isnan(snr):
        return least
    return min(most, max(least, 1 - 1 / (1 + snr)))


class SnrStep:
    """For a StageTrainer with `_metrics` (TRL's), which calls `measure` when a step's gradients are whole.

    `options` has `min` and `max`. Not under DeepSpeed or FSDP, where no process has a whole gradient (`check_whole`).
    """

    def __init__(self, trainer, options):
        self.trainer, self.options, self.factor = trainer, options, 1.0
        self._squares: list[torch.Tensor] = []  # of the gradients of each parameter and micro-batch of this step
        for each in trainer.model.parameters():
            if each.requires_grad:
                each.register_hook(self._note)  # heard before gradients are summed over micro-batches and processes
        trainer.add_callback(ScaledRate(self))

    def _note(self, gradient) -> None:
        self._squares.append(gradient.detach().float().square().sum())

    def measure(self) -> None:
        """Before clipping: the gradient is whole, and the same on all processes."""
        trainer = self.trainer
        parts = trainer.current_gradient_accumulation_steps
        count = parts * trainer.accelerator.num_processes
        local = torch.stack(self._squares).sum() * parts**2  # a step's gradient is the sum over micro-batches
        self._squares.clear()
        total = trainer.accelerator.reduce(local, reduction="sum").item()
        gradients = [each.grad for each in trainer.model.parameters() if each.grad is not None]
        mean = sum(each.detach().float().square().sum() for each in gradients).item()
        self.factor = self.options.min
        if count > 1:  # the last step of an epoch may have one micro-batch alone
            snr = signal_to_noise(total, mean, count)
            self.factor = multiplier(snr, self.options.min, self.options.max)
            trainer._metrics["train"]["snr/ratio"].append(snr)
        trainer._metrics["train"]["snr/step"].append(self.factor)


def check_whole(key: str) -> None:
    """Raises UserError under DeepSpeed or FSDP."""
    if is_sharded():
        raise UserError(
            f"{key}.snr_step: needs whole gradients on each process, which DeepSpeed and FSDP do not keep: remove it, "
            "or launch with recipes/accelerate/ddp.yaml"
        )


def group_numbers(trainer, output: dict) -> torch.Tensor:
    """The number of each row's group among this rank's, (B,)."""
    count = len(output["completion_ids"])
    return torch.arange(count, device=output["advantages"].device) // trainer.num_generations


def in_whole_groups(micro_batches: list[dict]) -> list[dict]:
    """A generation's micro-batches with whole groups (`group`) in each, in the order in which they were generated."""
    batch = {
        name: torch.cat([each[name] for each in micro_batches]) if value.dim() else value
        for name, value in micro_batches[0].items()
    }
    order = batch["group"].argsort(stable=True)
    batch = {name: value[order] if value.dim() else value for name, value in batch.items()}
    return split_tensor_dict(batch, len(micro_batches))


class ScaledRate(TrainerCallback):
    """The learning rates are the step's `factor` of themselves while the optimiser steps."""

    def __init__(self, snr: SnrStep):
        self.snr, self.rates = snr, []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.rates = [group["lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.snr.factor

    def on_optimizer_step(self, args, state, control, optimizer=None, **_):
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
