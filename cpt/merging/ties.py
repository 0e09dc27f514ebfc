"""TIES (2306.01708): trim each task vector, elect a sign for each parameter, average the task vectors that agree with it.

1. The paper and its authors' code (github.com/prateeky2806/ties-merging) trim the task vector of the whole model, flattened:
   `trim: model`. The default, as in mergekit, trims each tensor by itself, so that each keeps the same share however little
   of the change it has. The authors keep one parameter more, for theirs is the threshold of the largest that goes.
2. Ties: see `trim` and `elected_mean`. The authors give a vote of 0 the sign that most parameters of the model have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from cpt.merge_methods import check_options
from cpt.merging.magnitudes import ByMagnitude
from cpt.merging.selection import kth_magnitude
from cpt.merging.survey import Survey
from cpt.merging.tensors import moved, one_each, shares, task_vectors


def ties(
    base: Tensor,
    models: Sequence[Tensor],
    weights: float | Sequence[float] = 1.0,
    density: float = 0.2,
    scale: float = 1.0,
    thresholds: Sequence[float] | None = None,
) -> Tensor:
    """theta_0 + lambda * (the mean of the agreeing trimmed tau_i) (2306.01708; the top 20 %, lambda 1).

    `density` is the share of each task vector that is kept, by magnitude. `thresholds` are the smallest magnitudes kept,
    where they are known already (a chunk of a tensor is trimmed by the whole tensor's, or the whole model's).
    """
    start, taus = task_vectors(base, models)
    if thresholds is None:
        thresholds = [kth_magnitude(tau, kept(density, tau.numel())) for tau in taus]
    trimmed = [trim(tau, threshold) for tau, threshold in zip(taus, thresholds, strict=True)]
    return moved(start, elected_mean(trimmed, one_each(weights, len(models))), scale, models[0].dtype)


def kept(density: float, count: int) -> int:
    """How many of `count` parameters are kept: density * count rounded down, at least one. Raises UserError."""
    check_options(density=density)
    return max(1, int(density * count))


def trim(tau: Tensor, threshold: float) -> Tensor:
    """tau where |tau| >= threshold, else 0. All that tie at the threshold stay: the parameters' order does not matter."""
    if threshold == 0:
        return tau
    least = torch.tensor(threshold, dtype=tau.dtype)
    if least.item() >= threshold:  # else it is a float64's, and rounded down: what lies below it here goes already
        least = torch.nextafter(least, torch.tensor(-inf, dtype=tau.dtype))
    return hardshrink(tau, least.item())


def elected_mean(taus: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum of w_i tau_i over the models that agree with the elected sign / sum of their w_i; 0 where none does.

    The sign is that of sum_i w_i tau_i, and plus where the sum is 0. A model agrees where its tau_i has that sign, not 0.
    Raises UserError where the weights cannot be shares (a negative one, or all 0).
    """
    dtype = taus[0].dtype
    votes = [tau if weight == 1 else tau * weight for tau, weight in zip(taus, shares(weights), strict=True)]
    sign = torch.copysign(torch.ones((), dtype=dtype), sum(votes[1:], votes[0]))
    total, mass = torch.zeros_like(sign), torch.zeros_like(sign)
    for vote, weight in zip(votes, weights, strict=True):
        agreeing = (vote * sign).clamp_(min=0)
        total.add_(agreeing)
        mass.add_(agreeing.sign_(), alpha=weight)
    return total.mul_(sign).div_(mass.clamp_(min=torch.finfo(dtype).tiny))


@dataclass(frozen=True)
class Ties(ByMagnitude):
    scale: float
    trim: Literal["tensor", "model"]

    @property
    def strides(self):
        return () if self.trim == "model" else ByMagnitude.strides

    def ranks(self, size):
        return (kept(self.density, size),)

    def survey(self, size, dtype):
        return Survey(self.ranks(size) * len(self.weights), dtype) if self.trim == "model" else None

    def merge(self, known, chunk):
        thresholds = [threshold for (threshold,) in known]
        return ties(chunk.base, chunk.models, self.weights, self.density, self.scale, thresholds)
