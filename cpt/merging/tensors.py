"""What all methods share: the dtype they compute in, task vectors, and weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cpt.errors import UserError


def raised(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in float32, or all in float64 where one is. Raises ValueError where their shapes differ."""
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1:
        raise ValueError(
            f"only tensors of the same shape can be merged, not of {' and '.join(map(str, sorted(shapes)))}"
        )
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return [tensor.to(dtype) for tensor in tensors]


def task_vectors(base: Tensor, models: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The base, and tau_i = theta_i - theta_0 of each model (2212.04089)."""
    base, *models = raised([base, *models])
    return base, [model - base for model in models]


def moved(start: Tensor, change: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """theta_0 + lambda * change, in `dtype`."""
    return torch.add(start, change, alpha=scale).to(dtype)


def dot(one: Tensor, two: Tensor) -> float:
    """The inner product of two tensors as vectors; long sums in float64."""
    pairs = zip(one.reshape(-1).split(1 << 17), two.reshape(-1).split(1 << 17), strict=True)
    return sum(torch.dot(a, b).item() for a, b in pairs)


def cosine_of(both: float, one: float, two: float) -> float:
    """The cosine of the angle between two vectors from their inner product and norms, of any size; 0 where one is 0."""
    return 0.0 if one == 0 or two == 0 else max(-1.0, min(1.0, both / one / two))


def one_each(weights: float | Sequence[float], count: int) -> list[float]:
    """A weight for each of `count` models; a number is the weight of each. Raises UserError where the counts differ."""
    each = [float(weights)] * count if isinstance(weights, int | float) else [float(weight) for weight in weights]
    if len(each) != count:
        raise UserError(f"weight: {len(each)} weights for {count} models: give one, or one for each model")
    return each


def first_share(weights: Sequence[float]) -> float:
    """The share of the first of two models, in what their weights sum to."""
    first, second = shares(list(weights))
    return first / (first + second)


def shares(weights: list[float]) -> list[float]:
    """The weights, if they can be shares of a whole. Raises UserError."""
    if min(weights) < 0 or sum(weights) == 0:
        listed = ", ".join(f"{weight:g}" for weight in weights)
        raise UserError(
            f"weight: {listed}: an average needs weights of at least 0 and not all 0 (task-arithmetic subtracts)"
        )
    return weights
