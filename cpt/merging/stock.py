"""Model Stock (2403.19522): from the base towards the mean of the models, as far as their angles say.

As in mergekit, but for its lower bound of 1e-6 on the product of two norms: a small tensor that was trained gently lies below
it, and would be put back to the base whatever its angles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from cpt.errors import UserError
from cpt.merging.average import soup
from cpt.merging.method import Measuring
from cpt.merging.tensors import cosine_of, dot, raised, task_vectors


def model_stock(base: Tensor, models: Sequence[Tensor], share: float | None = None) -> Tensor:
    """theta_0 + t (mean of theta_i - theta_0), t = N cos / (1 + (N - 1) cos), a tensor at a time (2403.19522).

    cos is the mean over pairs of models of the cosine of the angle between their task vectors. `share` is t, where it is
    known already. Raises UserError for fewer than two models.
    """
    if len(models) < 2:
        raise UserError("model-stock: it measures the angle between models: give at least two, and --base")
    start, *thetas = raised([base, *models])
    share = share_of(gram(task_vectors(base, models)[1])) if share is None else share
    return torch.lerp(start, soup(thetas), share).to(models[0].dtype)


def gram(taus: Sequence[Tensor]) -> Tensor:
    """float64 (N, N): tau_i . tau_j."""
    return torch.tensor([[dot(one, two) for two in taus] for one in taus], dtype=torch.float64)


def share_of(products: Tensor) -> float:
    """t from the products of the task vectors; 0 where 1 + (N - 1) cos vanishes. With what did not change the cosine is 0."""
    count = len(products)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    norms = [sqrt(float(products[i, i])) for i in range(count)]
    cosine = sum(cosine_of(float(products[i, j]), norms[i], norms[j]) for i, j in pairs) / len(pairs)
    below = 1 + (count - 1) * cosine
    return 0.0 if abs(below) < 1e-6 else count * cosine / below


@dataclass(frozen=True)
class ModelStock(Measuring):
    strides = (1,)

    def measure(self, number, known, chunk):
        return gram(task_vectors(chunk.base, chunk.models)[1])

    def add(self, number, one, two):
        return one + two

    def learn(self, number, known, parts, size):
        return share_of(parts)

    def merge(self, known, chunk):
        return model_stock(chunk.base, chunk.models, share=known)
