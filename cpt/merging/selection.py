"""The k-th largest magnitude of a task vector, exactly, without sorting it: a radix selection on the bits of the floats.

The bits of a non-negative float order as the float does. Pass 0 counts the upper 16 bits of every magnitude; the bin in which
the k-th lies is then known. Pass 1 collects that bin alone (about a hundredth), and the k-th is selected in it. Both passes
run over chunks in any order, so a tensor larger than memory is no matter. Rank 1 is the largest.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

BINS = 1 << 15
TORCH = {torch.float32: torch.int32, torch.float64: torch.int64}


def kth_magnitude(tau: Tensor, k: int) -> float:
    """The k-th largest |tau| (k from 1 to its size); tau in float32 or float64."""
    bins = count(tau)
    chosen, rest = locate(bins, k)
    return select([collect(tau, chosen)], rest, tau.dtype)


def bits(tau: Tensor) -> Tensor:
    """|tau| as integers that order as it does."""
    integer = TORCH[tau.dtype]
    return tau.reshape(-1).view(integer) & torch.iinfo(integer).max


def upper(dtype: torch.dtype) -> int:
    return torch.iinfo(TORCH[dtype]).bits - 16


def count(tau: Tensor) -> Tensor:
    """How many magnitudes have each upper 16 bits: int64 (BINS,)."""
    return torch.bincount(bits(tau) >> upper(tau.dtype), minlength=BINS)


def locate(bins: Tensor, k: int) -> tuple[int, int]:
    """The bin of the k-th largest magnitude, and which of that bin's it is (from 1, the largest first)."""
    from_above = bins.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, k))
    before = int(from_above[place - 1]) if place else 0
    return BINS - 1 - place, k - before


def collect(tau: Tensor, chosen: int) -> np.ndarray:
    """The bits of the magnitudes in the bin `chosen`."""
    shift = upper(tau.dtype)
    whole = bits(tau).numpy()
    return whole[(whole >> shift) == chosen]


def select(parts: Iterable[np.ndarray], k: int, dtype: torch.dtype) -> float:
    """The k-th largest magnitude among the collected."""
    together = np.concatenate(list(parts))
    found = np.partition(together, together.size - k)[together.size - k : together.size - k + 1]
    return torch.from_numpy(found).view(dtype).item()
