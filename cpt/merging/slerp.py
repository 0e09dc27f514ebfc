"""SLERP: from one model to another along the arc between their directions, a tensor at a time.

As in mergekit, but for its lower bound of 1e-8 on a norm: below it any two tensors would be perpendicular, even equal ones.
Here that is so only where one is 0, and has no direction.
"""

from dataclasses import dataclass
from math import acos, sin, sqrt

import torch
from torch import Tensor

from cpt.errors import UserError
from cpt.merging import tensors
from cpt.merging.method import Measuring
from cpt.merging.tensors import dot, first_share, raised

NEARLY_PARALLEL = 0.9995  # of |cos|: above it the straight line (mergekit's)


def slerp(first: Tensor, second: Tensor, t: float = 0.5, cosine: float | None = None) -> Tensor:
    """(sin((1 - t) a) theta_1 + sin(t a) theta_2) / sin a, with a the angle between the two as flat vectors; t from 0 to 1.

    Where |cos a| > 0.9995, and so for a model with itself, a + t (b - a). `cosine` is that of the whole tensor, where known.
    Raises UserError for t outside [0, 1].
    """
    if not 0 <= t <= 1:
        raise UserError(f"weight: {t:g}: slerp needs a weight from 0 to 1")
    one, two = raised([first, second])
    cosine = cosine_of(*products(one, two)) if cosine is None else cosine
    if abs(cosine) > NEARLY_PARALLEL or t in (0, 1):
        return torch.lerp(one, two, t).to(first.dtype)
    angle = acos(cosine)
    merged = one * (sin((1 - t) * angle) / sin(angle))
    return merged.add_(two, alpha=sin(t * angle) / sin(angle)).to(first.dtype)


def products(one: Tensor, two: Tensor) -> Tensor:
    """float64 (3,): one . one, two . two, one . two."""
    return torch.tensor([dot(one, one), dot(two, two), dot(one, two)], dtype=torch.float64)


def cosine_of(one: float, two: float, both: float) -> float:
    """The cosine of the angle from the three products; 0 where a tensor is 0."""
    return tensors.cosine_of(both, sqrt(one), sqrt(two))


@dataclass(frozen=True)
class Slerp(Measuring):
    strides = (1,)

    def measure(self, number, known, chunk):
        return products(*chunk.models)

    def add(self, number, one, two):
        return one + two

    def learn(self, number, known, parts, size):
        return cosine_of(*parts.tolist())

    def merge(self, known, chunk):
        return slerp(*chunk.models, t=1 - first_share(self.weights), cosine=known)
