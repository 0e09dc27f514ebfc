"""The k-th largest magnitude of the task vector of a whole model, exactly: a radix selection by passes over all tensors.

Each pass counts the next 16 bits of the magnitudes that begin as the k-th is known to begin (`selection`). Two passes give a
float32, four a float64; a pass holds 65,536 counts for each model, whatever its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cpt.merging import selection
from cpt.merging.tensors import task_vectors

COUNTS = 8 << 16  # bytes of one model's counts


@dataclass
class Rank:
    """A magnitude that is looked for: the k-th largest of those that begin with the bits `prefix`."""

    k: int
    prefix: int = 0


class Survey:
    """The magnitudes of these ranks (1 is the largest), one of each model's task vector, as the floats of `dtype`.

    While `known` is None: `measure` every chunk of every tensor, `add` what that gives in any order, and `learn`. Then it is
    one list for each model, with its magnitude.
    """

    def __init__(self, ranks: Sequence[int], dtype: torch.dtype):
        self.ranks, self.dtype, self.level = [Rank(k) for k in ranks], dtype, 0
        self.passes = dtype.itemsize // 2
        self.totals: list[Tensor] | None = None
        self.known: list[list[float]] | None = None

    def measure(self, base: Tensor, models: Sequence[Tensor]) -> list[Tensor]:
        """The counts of this pass in a piece of the base and of each model: one tensor (int64) for each model."""
        _, taus = task_vectors(base, models)
        return [
            selection.count_next(tau.to(self.dtype), rank.prefix, self.level)
            for tau, rank in zip(taus, self.ranks, strict=True)
        ]

    def add(self, counts: list[Tensor]) -> None:
        self.totals = counts if self.totals is None else [a + b for a, b in zip(self.totals, counts, strict=True)]

    def learn(self) -> None:
        """After a pass over all tensors."""
        for rank, bins in zip(self.ranks, self.totals, strict=True):
            place, rank.k = selection.locate(bins, rank.k)
            rank.prefix = rank.prefix << 16 | place
        self.level, self.totals = self.level + 1, None
        if self.level == self.passes:
            self.known = [[selection.from_bits(rank.prefix, self.dtype)] for rank in self.ranks]
