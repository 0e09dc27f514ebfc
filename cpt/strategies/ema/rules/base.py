"""A rule says how much of the live weights theta an average takes in one update:

average <- average + a (theta - average),  a in [0, 1]: one share of all, one of each tensor, or one of each element
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from cpt.strategies.ema.average import Average, Share, groups_of


@dataclass(frozen=True)
class Step:
    """Where an average is: optimiser steps since it began (`age`), and the updates that it has had."""

    age: int
    updates: int


class Rule:
    """One rule over the trained `weights` and their `average`. Subclasses say the share; these defaults remember nothing.

    Attributes:
        gradients: when the rule looks at a step's gradients, before the weights take the step or after; None: never.
        memory: what the next update depends on besides the average, {what: one tensor for each weight}: it is saved with it.
    """

    gradients: ClassVar[Literal["before", "after"] | None] = None

    def __init__(self, spec: Any, weights: Sequence[torch.Tensor], average: Average):
        self.spec, self.weights, self.average = spec, list(weights), average
        self.memory: dict[str, list[torch.Tensor]] = {}

    def begin(self) -> None:
        """The average begins here, with the weights as they are."""

    def before_step(self) -> None:
        """The weights are still those at which the gradients of the step were taken."""

    def share(self, step: Step, gradients: Sequence[torch.Tensor] | None) -> Share:
        """What the update of this step takes; `gradients`, one for each weight, where the rule looks at them."""
        raise NotImplementedError

    def updated(self, step: Step) -> None:
        """The average has taken the share."""

    def served(self, step: Step) -> list[torch.Tensor]:
        """The tensors that are evaluated and shipped."""
        return self.average.tensors

    def remember(self, what: str, tensors: Sequence[torch.Tensor]) -> None:
        """Copy the tensors into the memory, in the average's dtype."""
        if what not in self.memory:
            self.memory[what] = [torch.empty_like(tensor) for tensor in self.average.tensors]
        torch._foreach_copy_(self.memory[what], [tensor.detach() for tensor in tensors])

    def live(self, group: slice = slice(None)) -> list[torch.Tensor]:
        """The weights in the average's dtype."""
        pairs = zip(self.weights[group], self.average.tensors[group], strict=True)
        return [weight.detach().to(tensor.dtype) for weight, tensor in pairs]

    def of_each_tensor(
        self,
        gradients: Sequence[torch.Tensor],
        formula: Callable[[slice, list[torch.Tensor], list[torch.Tensor]], torch.Tensor],
    ) -> list[float]:
        """One share for each tensor: `formula(group, gradients, drifts)` gives those of a group, drift = theta - average."""
        shares = []
        for group in groups_of(self.average.tensors):
            drifts = torch._foreach_sub(self.live(group), self.average.tensors[group])
            shares.append(formula(group, list(gradients[group]), list(drifts)))
        return torch.cat([each.float() for each in shares]).tolist()

    def in_dtype(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The gradients in the average's dtype."""
        return [g.to(tensor.dtype) for g, tensor in zip(gradients, self.average.tensors, strict=True)]


def norms(tensors: Sequence[torch.Tensor], order: int) -> torch.Tensor:
    """(tensors) in the tensors' dtype."""
    return torch.stack(torch._foreach_norm(list(tensors), order))
