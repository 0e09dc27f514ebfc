"""`psmt` (2407.02253): what matters most, by the Fisher information, stays.

    average <- m average + (1 - m) (decay average + (1 - decay) theta), elementwise, m = 1 where the Fisher is largest

1. That is the paper's equation, read by its abstract ("preservation measures applied to crucial parameters"; the text's
   definition of m was not at hand), with the .03 of the code.
2. The authors' code does otherwise: m marks what lies *below* the .03 quantile, over all tensors, of this step's squared
   gradients. The student has that put back to the source model, the teacher takes it from the student, and all else has the
   average's update twice.
3. Here the .03 are of each tensor, for layers differ in scale. The Fisher is the mean of squared gradients over all updates
   so far: it still knows what mattered to earlier tasks, where Adam's accumulator begins again with each stage, and any
   optimiser will do. The student is not touched, and its regulariser is not implemented.
"""

from collections.abc import Sequence
from functools import cache

import torch

from cpt.strategies.ema.average import ElementShares, groups_of
from cpt.strategies.ema.rules.base import Rule, Step

SAMPLE = 1 << 16  # elements that a quantile of a large tensor is taken from


class Psmt(Rule):
    """Remembers the `fisher`: the mean of squared gradients over all updates, in float32."""

    gradients = "before"

    def share(self, step: Step, gradients) -> ElementShares:
        self.add_to_fisher(gradients, step.updates)
        return ElementShares(lambda group: psmt(self.memory["fisher"][group], self.spec.protected, self.spec.decay))

    def add_to_fisher(self, gradients: Sequence[torch.Tensor], updates: int) -> None:
        if "fisher" not in self.memory:
            self.memory["fisher"] = [torch.zeros_like(g, dtype=torch.float32) for g in gradients]
        for group in groups_of(gradients):
            squares = [g.float().square() for g in gradients[group]]
            torch._foreach_lerp_(self.memory["fisher"][group], squares, 1 / (updates + 1))


def psmt(fishers: Sequence[torch.Tensor], protected: float, decay: float) -> list[torch.Tensor]:
    """The share of each element: 0 for the floor(protected * size) of each tensor whose Fisher is largest, else 1 - decay.

    All that equal the smallest of these go with them; a Fisher of 0 protects nothing. In a tensor of over SAMPLE elements
    the smallest is a sample's, always of the same places: the share protected is then right but for some .0007 (at .03).
    """
    shares = []
    for fisher in fishers:
        share, sample = torch.full_like(fisher, 1 - decay), fisher.flatten()
        if len(sample) > SAMPLE:
            sample = sample[sampled_places(len(sample)).to(sample.device)]
        count = int(protected * len(sample))
        if count:
            smallest = sample.kthvalue(len(sample) - count + 1).values
            share.masked_fill_((fisher >= smallest) & (fisher > 0), 0.0)
        shares.append(share)
    return shares


@cache
def sampled_places(size: int) -> torch.Tensor:
    return torch.randint(size, (SAMPLE,), generator=torch.Generator().manual_seed(size))
