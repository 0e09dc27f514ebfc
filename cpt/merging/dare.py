"""DARE (2311.03099): drop each parameter of a task vector with probability p, multiply the others by 1 / (1 - p).

What is left is summed (`dare`: task arithmetic, as in the paper) or joined as TIES does (`dare_ties`, without its trimming).
`density` is 1 - p. mergekit differs: it rescales by the ratio of the sums of magnitudes, and its dare_ties is not divided.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cpt.merge_methods import check_options
from cpt.merging.arithmetic import weighted_sum
from cpt.merging.draws import RANGE, uniform_bits
from cpt.merging.method import Chunk, Method
from cpt.merging.tensors import moved, one_each, task_vectors
from cpt.merging.ties import elected_mean


def dare(
    base: Tensor,
    models: Sequence[Tensor],
    weights: float | Sequence[float] = 1.0,
    density: float = 0.1,
    scale: float = 1.0,
    masks: Sequence[Tensor] | None = None,
    seed: int = 0,
    name: str = "",
    join: Callable[[Sequence[Tensor], Sequence[float]], Tensor] = weighted_sum,
) -> Tensor:
    """theta_0 + lambda sum_i w_i m_i tau_i / density, m_i from Bernoulli(density) (2311.03099; p 0.9).

    `masks` (0 and 1) are drawn from (seed, name, i) unless given; `join` makes one change of the thinned ones.
    """
    start, taus = task_vectors(base, models)
    left = thinned(taus, density, masks or drawn(taus, density, seed, name))
    return moved(start, join(left, one_each(weights, len(models))), scale, models[0].dtype)


dare_ties = partial(dare, join=elected_mean)  # joined by an elected sign and the mean of those that agree (2306.01708)


def thinned(taus: Sequence[Tensor], density: float, masks: Sequence[Tensor]) -> list[Tensor]:
    """m_i tau_i / density."""
    return [(tau * mask.to(tau.dtype)).div_(density) for tau, mask in zip(taus, masks, strict=True)]


def drawn(taus: Sequence[Tensor], density: float, seed: int, name: str, start: int = 0) -> list[Tensor]:
    """A mask for each task vector, uint8, from element `start` of the tensor `name` on. Raises UserError for the density."""
    check_options(density=density)
    limit = round(density * RANGE)
    bits = [uniform_bits(seed, name, index, start, tau.numel()) for index, tau in enumerate(taus)]
    masks = [torch.from_numpy((each < limit).view("uint8")) for each in bits]
    return [mask.view(tau.shape) for mask, tau in zip(masks, taus, strict=True)]


@dataclass(frozen=True)
class Dare(Method):
    density: float
    scale: float
    seed: int
    join = staticmethod(weighted_sum)

    def masks(self, chunk: Chunk) -> list[Tensor]:
        return drawn(chunk.models, self.density, self.seed, chunk.name, chunk.start)

    def merge(self, known, chunk):
        masks = self.masks(chunk)
        return dare(chunk.base, chunk.models, self.weights, self.density, self.scale, masks, join=self.join)


@dataclass(frozen=True)
class DareTies(Dare):
    join = staticmethod(elected_mean)
