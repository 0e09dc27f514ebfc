"""The k-th largest magnitude of a task vector, exactly, without sorting it: a radix selection on the bits of the floats.

The bits of a non-negative float order as the float does, so their upper 16 are bins. A count of the bins says in which the
k-th lies; that bin alone (about a hundredth) is collected, and the k-th selected in it. Counting an eighth first is cheaper:
it gives a few bins between which the k-th should lie (`between`), and the pass that collects them also counts what lies
above, which proves it. Chunks may come in any order. Rank 1 is the largest.
"""

from collections.abc import Iterable
from math import sqrt

import numpy as np
import torch
from torch import Tensor

BINS = 1 << 15
SLACK = 0.005  # of the parameters, either way, for samples that are not quite like the rest
TORCH = {torch.float32: torch.int32, torch.float64: torch.int64}


def kth_magnitude(tau: Tensor, k: int) -> float:
    """The k-th largest |tau| (k from 1 to its size); tau in float32 or float64."""
    chosen, rest = locate(count(tau), k)
    return select([collect(tau, chosen, chosen)[1]], rest, tau.dtype)


def bits(tau: Tensor) -> Tensor:
    """|tau| as integers that order as it does."""
    integer = TORCH[tau.dtype]
    return tau.reshape(-1).view(integer) & torch.iinfo(integer).max


def upper(dtype: torch.dtype) -> int:
    return torch.iinfo(TORCH[dtype]).bits - 16


def count(tau: Tensor) -> Tensor:
    """How many magnitudes have each upper 16 bits: int64 (BINS,)."""
    return torch.bincount(bits(tau) >> upper(tau.dtype), minlength=BINS)


def count_next(tau: Tensor, prefix: int, level: int) -> Tensor:
    """Of the magnitudes that begin with the 16 * `level` bits `prefix`, how many have each next 16 bits: int64 (65536,)."""
    all_bits, left = bits(tau), tau.dtype.itemsize * 8 - 16 * level
    inside = all_bits if level == 0 else all_bits[all_bits >> left == prefix]
    return torch.bincount(inside >> (left - 16) & 0xFFFF, minlength=1 << 16)


def from_bits(magnitude: int, dtype: torch.dtype) -> float:
    """The float of that dtype whose bits these are."""
    return torch.tensor([magnitude], dtype=TORCH[dtype]).view(dtype).item()


def locate(bins: Tensor, k: int) -> tuple[int, int]:
    """The bin of the k-th largest magnitude, and which of that bin's it is (from 1, the largest first)."""
    from_above = bins.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, k))
    before = int(from_above[place - 1]) if place else 0
    return len(bins) - 1 - place, k - before


def between(bins: Tensor, k: int, size: int) -> tuple[int, int]:
    """The lowest and the highest bin between which the k-th of `size` should lie, by the bins of a sample."""
    seen, share = int(bins.sum()), k / size
    margin = SLACK + 4 * sqrt(share * (1 - share) / seen)
    low, high = (min(seen, max(1, round((share + side * margin) * seen))) for side in (1, -1))
    return locate(bins, low)[0], locate(bins, high)[0]


def collect(tau: Tensor, lowest: int, highest: int) -> tuple[int, np.ndarray]:
    """How many magnitudes lie above the bin `highest`, and the bits of those from the bin `lowest` to it."""
    shift = upper(tau.dtype)
    bits_of_all = bits(tau).numpy()
    first, last = lowest << shift, ((highest + 1) << shift) - 1
    inside = (bits_of_all - first).view(f"u{bits_of_all.itemsize}") <= last - first
    return np.count_nonzero(bits_of_all > last), bits_of_all[inside]


def select(parts: Iterable[np.ndarray], k: int, dtype: torch.dtype) -> float:
    """The k-th largest magnitude among the collected."""
    together = np.concatenate(list(parts))
    kth = np.partition(together, together.size - k)[together.size - k : together.size - k + 1]
    return torch.from_numpy(kth).view(dtype).item()
