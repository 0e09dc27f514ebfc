"""DELLA (2406.11617): like DARE, but large parameters are kept more often than small ones of their row; signs are elected.

As in mergekit: what is left is rescaled so that the sum of its magnitudes over the tensor is as before, however small that is
(mergekit leaves sums below 1e-7 as they are). The paper divides each parameter by its own probability of being kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cpt.merge_methods import check_probabilities
from cpt.merging.draws import chance
from cpt.merging.method import Chunk, Measuring
from cpt.merging.selection import bits
from cpt.merging.tensors import moved, one_each, task_vectors
from cpt.merging.ties import elected_mean


def della(
    base: Tensor,
    models: Sequence[Tensor],
    weights: float | Sequence[float] = 1.0,
    density: float = 0.5,
    epsilon: float = 0.15,
    scale: float = 1.0,
    masks: Sequence[Tensor] | None = None,
    ratios: Sequence[float] | None = None,
    seed: int = 0,
    name: str = "",
) -> Tensor:
    """theta_0 + lambda * elected_mean(r_i m_i tau_i), m_i from Bernoulli(`kept_shares`), r_i = sum |tau_i| / sum |m_i tau_i|.

    epsilon 0.15 is mergekit's; a density of 0.5 is ours (mergekit names none). `masks` are drawn from (seed, name, i) unless
    given; `ratios` are the r_i, where they are known already (of a chunk of a tensor: the whole tensor's).
    """
    start, taus = task_vectors(base, models)
    masks = masks or drawn(taus, density, epsilon, seed, name)
    left = [tau * mask.to(tau.dtype) for tau, mask in zip(taus, masks, strict=True)]
    if ratios is None:
        ratios = [ratio(*sums) for sums in map(magnitudes, taus, left)]
    left = [each.mul_(factor) for each, factor in zip(left, ratios, strict=True)]
    return moved(start, elected_mean(left, one_each(weights, len(models))), scale, models[0].dtype)


def magnitudes(tau: Tensor, left: Tensor) -> tuple[float, float]:
    """sum |tau|, sum |m tau|."""
    return tau.abs().sum(dtype=torch.float64).item(), left.abs().sum(dtype=torch.float64).item()


def ratio(before: float, after: float) -> float:
    """before / after; 1 where nothing is left."""
    return before / after if after else 1.0


def drawn(taus: Sequence[Tensor], density: float, epsilon: float, seed: int, name: str, start: int = 0) -> list[Tensor]:
    """A mask for each task vector, uint8, from element `start` of the tensor `name` on (the start of a row)."""
    shares = [kept_shares(tau, density, epsilon).reshape(-1) for tau in taus]
    masks = [torch.from_numpy(chance(seed, name, index, start, share)) for index, share in enumerate(shares)]
    return [mask.view(tau.shape) for mask, tau in zip(masks, taus, strict=True)]


def kept_shares(tau: Tensor, density: float, epsilon: float) -> np.ndarray:
    """density - epsilon for the smallest magnitude of a row, density + epsilon for the largest, in even steps by rank.

    Rows are along the last dimension; a vector is one row. Of equal magnitudes the later one ranks higher. A row of one
    parameter has `density`. Float32, tau's shape. Raises UserError where a probability would not be between 0 and 1.
    """
    check_probabilities(density, epsilon)
    length = tau.shape[-1] if tau.ndim else 1
    if length == 1:
        return np.full(tuple(tau.shape), density, np.float32)
    order = order_of(tau.reshape(-1, length))
    steps = torch.linspace(density - epsilon, density + epsilon, length).expand(order.shape)
    return torch.empty(order.shape).scatter_(1, order, steps).view(tau.shape).numpy()


def order_of(rows: Tensor) -> Tensor:
    """The columns of each row by magnitude, smallest first, of equal ones the earlier first: int64, the shape of `rows`."""
    if rows.dtype == torch.float64:
        return rows.abs().argsort(dim=1, stable=True)
    keys = bits(rows).view(rows.shape).long().bitwise_left_shift_(32) | torch.arange(rows.shape[1])
    keys.numpy().sort(
        axis=1
    )  # a quarter of the time of argsort: no two keys are equal, and numpy sorts integers by vectors
    return keys & 0xFFFFFFFF


@dataclass(frozen=True)
class Della(Measuring):
    density: float
    epsilon: float
    scale: float
    seed: int
    strides, whole_rows = (1,), True

    def masks(self, chunk: Chunk) -> list[Tensor]:
        _, taus = task_vectors(chunk.base, chunk.models)
        return drawn(taus, self.density, self.epsilon, self.seed, chunk.name, chunk.start)

    def measure(self, number, known, chunk):
        _, taus = task_vectors(chunk.base, chunk.models)
        return [np.array(magnitudes(tau, tau * mask)) for tau, mask in zip(taus, self.masks(chunk), strict=True)]

    def learn(self, number, known, parts, size):
        return [ratio(*sums) for sums in parts]

    def merge(self, known, chunk):
        return della(
            chunk.base, chunk.models, self.weights, self.density, self.epsilon, self.scale, self.masks(chunk), known
        )
