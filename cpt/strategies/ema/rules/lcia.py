"""`lcia-paper` and `lcia-code` (2410.10868): one share a tensor, from gradients and the drift after the step.

LCIA asks, tensor by tensor, for the share b of the old weights that balances the loss of theta - b d against the distance
kept from the old, d = theta - average: to second order b = (g.d + |d|) / (d.H.d), which it writes with norms as

    b = (|g| + 1) / (|d| |H|)

1. Paper and code disagree: in the paper the ratio weighs the *old* weights and H is the difference quotient of gradients
   (that it is divided by the step is our reading; the text was not at hand); in the code the ratio, times 2 and undivided,
   weighs the *new* ones. Both are here as they are.
2. Outside (0, 1) both fall back: `decay` on the old weights (theirs: 0.99).
3. All norms are sums of absolute values, so a tensor's size decides whether the ratio is inside at all.
"""

from collections.abc import Sequence

import torch

from cpt.strategies.ema.rules.base import Rule, norms


class Lcia(Rule):
    """Remembers the `gradients` of its last update; the first has none to compare with, and takes the fallback."""

    gradients = "after"

    def share(self, step, gradients) -> list[float]:
        gradients = self.in_dtype(gradients)
        shares = self.of_each_tensor(gradients, self.of_group)
        self.remember("gradients", gradients)
        return shares

    def of_group(self, group: slice, gradients, drifts) -> torch.Tensor:
        if "gradients" not in self.memory:
            return torch.full((len(gradients),), 1 - self.spec.decay, device=gradients[0].device)
        changes = torch._foreach_sub(gradients, self.memory["gradients"][group])
        return self.ratio(group, gradients, changes, drifts)

    def ratio(self, group: slice, gradients, changes, drifts) -> torch.Tensor:
        raise NotImplementedError


class LciaCode(Lcia):
    def ratio(self, group, gradients, changes, drifts) -> torch.Tensor:
        return lcia_code(gradients, changes, drifts, self.spec.decay)


class LciaPaper(Lcia):
    """Remembers also the `weights` at which the last gradients were taken, for the step between the two."""

    steps: list[torch.Tensor]

    def before_step(self) -> None:
        live = self.live()
        self.steps = list(torch._foreach_sub(live, self.memory["weights"])) if "weights" in self.memory else []
        self.remember("weights", live)

    def share(self, step, gradients) -> list[float]:
        shares = super().share(step, gradients)
        self.steps = []
        return shares

    def ratio(self, group, gradients, changes, drifts) -> torch.Tensor:
        return lcia_paper(gradients, changes, drifts, self.steps[group], self.spec.decay)


def lcia_paper(
    gradients: Sequence[torch.Tensor],
    changes: Sequence[torch.Tensor],
    drifts: Sequence[torch.Tensor],
    steps: Sequence[torch.Tensor],
    decay: float,
) -> torch.Tensor:
    """(tensors): 1 - b, b = (|g| + 1) |step| / (|d| |change of g|), of the sums of absolute values."""
    g, y, d, s = (norms(each, 1) for each in (gradients, changes, drifts, steps))
    return 1 - inside((g + 1) * s / (d * y), decay)


def lcia_code(
    gradients: Sequence[torch.Tensor], changes: Sequence[torch.Tensor], drifts: Sequence[torch.Tensor], decay: float
) -> torch.Tensor:
    """(tensors): 2 (1 + |g|) / (|d| |change of g|), of the sums of absolute values."""
    g, y, d = (norms(each, 1) for each in (gradients, changes, drifts))
    return inside(2 * (1 + g) / (d * y), 1 - decay)


def inside(ratio: torch.Tensor, otherwise: float) -> torch.Tensor:
    """The ratio where it is in (0, 1), else `otherwise` (also for NaN)."""
    return torch.where((ratio > 0) & (ratio < 1), ratio, otherwise)
