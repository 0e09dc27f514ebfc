"""Methods that must know the k-th largest magnitude of a task vector, tensor by tensor."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cpt.merging import selection
from cpt.merging.method import Again, Measuring
from cpt.merging.tensors import task_vectors


@dataclass(frozen=True)
class Search:
    """Of one rank in one task vector: the bins between which it should lie (selection.between), or None: not known."""

    rank: int
    bins: tuple[int, int] | None = None


@dataclass(frozen=True)
class ByMagnitude(Measuring):
    """Finds, in each task vector, the magnitudes of the ranks that `ranks` names.

    Pass 0 counts the bins of a sample; pass 1 collects the few between which a rank should lie. Where it does not, the bins
    of the whole are counted, and pass 1 comes again with the right one.
    """

    density: float
    strides = (8, 1)

    @abstractmethod
    def ranks(self, size: int) -> tuple[int, ...]:
        """1 is the largest of `size` magnitudes."""

    def measure(self, number, known, chunk):
        _, taus = task_vectors(chunk.base, chunk.models)
        if known is None:
            return [selection.count(tau) for tau in taus]
        return [Found.of(tau, search) for tau, searches in zip(taus, known, strict=True) for search in searches]

    def learn(self, number, known, parts, size):
        ranks = self.ranks(size)
        if number == 0:
            return [[Search(k, selection.between(bins, k, size)) for k in ranks] for bins in parts]
        if known is None:
            exact = [[selection.locate(bins, k)[0] for k in ranks] for bins in parts]
            return Again([[Search(k, (place, place)) for k, place in zip(ranks, mine, strict=True)] for mine in exact])
        if not all(each.has_it for each in parts):
            return Again(None)
        return [[each.value() for each in parts[n : n + len(ranks)]] for n in range(0, len(parts), len(ranks))]


@dataclass(frozen=True)
class Found:
    """What a chunk holds of a search: how many magnitudes above its bins, and the bits of those in them."""

    search: Search
    dtype: torch.dtype
    above: int
    parts: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, tau: Tensor, search: Search) -> "Found":
        above, part = selection.collect(tau, *search.bins)
        return cls(search, tau.dtype, above, (part,))

    def __add__(self, other: "Found") -> "Found":
        return Found(self.search, self.dtype, self.above + other.above, self.parts + other.parts)

    @property
    def has_it(self) -> bool:
        return self.above < self.search.rank <= self.above + sum(part.size for part in self.parts)

    def value(self) -> float:
        return selection.select(self.parts, self.search.rank - self.above, self.dtype)
