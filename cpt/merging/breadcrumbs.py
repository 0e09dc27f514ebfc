"""Model Breadcrumbs (2312.06795): task vectors without their largest and smallest parameters, summed. As in mergekit."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import hardshrink

from cpt.merge_methods import check_options
from cpt.merging.arithmetic import weighted_sum
from cpt.merging.magnitudes import ByMagnitude
from cpt.merging.selection import kth_magnitude
from cpt.merging.tensors import moved, one_each, task_vectors
from cpt.merging.ties import trim


def breadcrumbs(
    base: Tensor,
    models: Sequence[Tensor],
    weights: float | Sequence[float] = 1.0,
    density: float = 0.9,
    gamma: float = 0.01,
    scale: float = 1.0,
    bounds: Sequence[tuple[float, float]] | None = None,
) -> Tensor:
    """theta_0 + lambda sum_i w_i (tau_i where low_i <= |tau_i| <= high_i).

    The largest `gamma` of the parameters go, then the smallest, until `density` is left (mergekit's definition; its density
    and gamma in its guide: 0.9, 0.01). `bounds` are (low, high) of each tau, where they are known already.
    """
    start, taus = task_vectors(base, models)
    if bounds is None:
        bounds = [tuple(kth_magnitude(tau, k) for k in ranks(density, gamma, tau.numel())) for tau in taus]
    left = [between(tau, low, high) for tau, (low, high) in zip(taus, bounds, strict=True)]
    return moved(start, weighted_sum(left, one_each(weights, len(models))), scale, models[0].dtype)


def ranks(density: float, gamma: float, count: int) -> tuple[int, int]:
    """The ranks (1 is the largest magnitude) of the smallest and of the largest parameter that stays. Raises UserError."""
    check_options(density=density, gamma=gamma)
    left = max(1, int(density * count))
    smallest = max(0, count - left - int(gamma * count))
    return count - smallest, count - smallest - left + 1


def between(tau: Tensor, low: float, high: float) -> Tensor:
    """tau where low <= |tau| <= high, else 0. What ties at a bound stays."""
    middle = trim(tau, low)
    return middle - hardshrink(middle, high)


@dataclass(frozen=True)
class Breadcrumbs(ByMagnitude):
    gamma: float
    scale: float

    def ranks(self, size):
        return ranks(self.density, self.gamma, size)

    def merge(self, known, chunk):
        return breadcrumbs(chunk.base, chunk.models, self.weights, self.density, self.gamma, self.scale, bounds=known)
