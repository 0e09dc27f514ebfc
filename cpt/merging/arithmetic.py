"""Sums of changes tau_i = theta_i - theta_0: task arithmetic (2212.04089), AIMMerging (2509.17348), MagMax (2407.06322)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cpt.merging.method import Method
from cpt.merging.tensors import moved, one_each, task_vectors


def task_arithmetic(
    base: Tensor, models: Sequence[Tensor], weights: float | Sequence[float] = 1.0, scale: float = 0.3
) -> Tensor:
    """theta_0 + lambda sum_i w_i tau_i (2212.04089; lambda 0.3)."""
    start, taus = task_vectors(base, models)
    return moved(start, weighted_sum(taus, one_each(weights, len(models))), scale, models[0].dtype)


def weighted_sum(taus: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i tau_i."""
    total = taus[0] * weights[0]
    for tau, weight in zip(taus[1:], weights[1:], strict=True):
        total.add_(tau, alpha=weight)
    return total


def aim(base: Tensor, new: Tensor, memory: Tensor, weights: Sequence[float] = (0.5, 0.5)) -> Tensor:
    """theta_0 + w_in (theta_new - theta_0) + w_out (theta_memory - theta_0) (2509.17348; both weights 0.4 to 0.6).

    `new` was trained on the new task, `memory` on rows kept of the old ones, both from `base`. When to merge (the paper's
    controller) is the caller's.
    """
    return task_arithmetic(base, [new, memory], weights, scale=1.0)


def magmax(base: Tensor, models: Sequence[Tensor], scale: float = 0.5) -> Tensor:
    """theta_0 + lambda tau_i, for each parameter that of the largest |tau_i| (2407.06322; lambda 0.5).

    Where two are equally large and of opposite sign, the positive one: the order of the models does not matter.
    """
    start, taus = task_vectors(base, models)
    high = taus[0].clamp(min=0)
    low = taus[0].clamp(max=0)
    for tau in taus[1:]:
        high, low = torch.maximum(high, tau), torch.minimum(low, tau)
    largest = torch.copysign(torch.maximum(high, -low), high + low)  # faster than `where` by far
    return moved(start, largest, scale, models[0].dtype)


@dataclass(frozen=True)
class TaskArithmetic(Method):
    scale: float

    def merge(self, known, chunk):
        return task_arithmetic(chunk.base, chunk.models, self.weights, self.scale)


@dataclass(frozen=True)
class Aim(Method):
    def merge(self, known, chunk):
        return aim(chunk.base, *chunk.models, weights=self.weights)


@dataclass(frozen=True)
class MagMax(Method):
    scale: float

    def merge(self, known, chunk):
        return magmax(chunk.base, chunk.models, self.scale)
