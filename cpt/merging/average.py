"""Averages of models: linear, soup (2203.05482), wise (2109.01903), and by Fisher information (2111.09832).

Interpolation is written a + w (b - a), never (1 - w) a + w b: a model with itself is itself bit for bit, and the ends are
the ends. `torch.lerp` does so from the nearer end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cpt.errors import UserError
from cpt.merging.method import Method
from cpt.merging.tensors import first_share, one_each, raised, shares


def linear(models: Sequence[Tensor], weights: float | Sequence[float] = 1.0) -> Tensor:
    """sum_i w_i theta_i / sum_i w_i (2203.05482), as a chain: m <- m + w_i / (w_1 + ... + w_i) (theta_i - m).

    Raises:
        UserError: a weight is negative, or all are zero (their sum divides; to subtract a model use task-arithmetic).
    """
    weights = shares(one_each(weights, len(models)))
    first, *rest = [index for index, weight in enumerate(weights) if weight > 0]
    if len(rest) == 1:
        share = weights[rest[0]] / (weights[first] + weights[rest[0]])
        return interpolated(models[first], models[rest[0]], share).to(models[0].dtype)
    tensors = raised(models)
    merged, so_far = tensors[first], weights[first]
    for index in rest:
        so_far += weights[index]
        merged = torch.lerp(merged, tensors[index], weights[index] / so_far)
    return merged.to(models[0].dtype)


def soup(models: Sequence[Tensor]) -> Tensor:
    """The uniform mean of the models (2203.05482)."""
    return linear(models, 1.0)


def wise(old: Tensor, new: Tensor, weight: float = 0.5) -> Tensor:
    """w theta_old + (1 - w) theta_new (WiSE-FT, 2109.01903; its alpha is 1 - w). Raises UserError for w outside [0, 1]."""
    if not 0 <= weight <= 1:
        raise UserError(f"weight: {weight:g}: wise needs the old model's share, from 0 to 1")
    return interpolated(old, new, 1 - weight).to(old.dtype)


def interpolated(one: Tensor, two: Tensor, share: float) -> Tensor:
    """one + share (two - one). Of two bfloat16 tensors `torch.lerp` computes in float32 by itself and rounds once."""
    if not one.dtype == two.dtype == torch.bfloat16:
        one, two = raised([one, two])
    return torch.lerp(one, two, share)


def fisher(models: Sequence[Tensor], fishers: Sequence[Tensor], weights: float | Sequence[float] = 1.0) -> Tensor:
    """sum_i w_i F_i theta_i / sum_i w_i F_i, elementwise (2111.09832), in the chained form of `linear`.

    `fishers` are the diagonals of the Fisher information, >= 0, of the models' shape. Where all are 0 the plain weighted mean
    stands. Raises UserError for a negative Fisher.
    """
    weights = shares(one_each(weights, len(models)))
    tensors = raised([*models, *fishers])
    thetas, diagonals = tensors[: len(models)], tensors[len(models) :]
    if any((diagonal < 0).any() for diagonal in diagonals):
        raise UserError("fisher: a negative value: a diagonal Fisher is a mean of squares")
    empty = (sum(diagonal * (weight > 0) for diagonal, weight in zip(diagonals, weights, strict=True)) == 0).to(
        thetas[0]
    )
    merged, so_far = thetas[0], (diagonals[0] + empty) * weights[0]
    for theta, diagonal, weight in zip(thetas[1:], diagonals[1:], weights[1:], strict=True):
        more = (diagonal + empty) * weight
        so_far = so_far + more
        merged = torch.lerp(merged, theta, torch.where(so_far > 0, more / so_far, 0.0))
    return merged.to(models[0].dtype)


@dataclass(frozen=True)
class Linear(Method):
    bfloat16_pairs = True

    def merge(self, known, chunk):
        return linear(chunk.models, self.weights)


@dataclass(frozen=True)
class Soup(Method):
    bfloat16_pairs = True

    def merge(self, known, chunk):
        return soup(chunk.models)


@dataclass(frozen=True)
class Wise(Method):
    bfloat16_pairs = True

    def merge(self, known, chunk):
        return wise(*chunk.models, weight=first_share(self.weights))


@dataclass(frozen=True)
class Fisher(Method):
    def merge(self, known, chunk):
        return fisher(chunk.models, chunk.fishers, self.weights)
