"""`bema` (2508.00180): a falls with a power of the *steps*, however rarely the average is updated, and what is served is
corrected for its lag by a part of theta - theta_0. With t steps since the average began, at an update

    average <- average + (1 + lag + t)^-ema_power (theta - average)
    served   = average + (1 + lag + t)^-bias_power (theta - theta_0)

as in the authors' code (github.com/abblock/bema, core_offline.py and core_online.py), which updates every 400 steps. TRL's
callback writes (lag + t): the same with a lag that is smaller by 1.
"""

import torch

from cpt.strategies.ema.rules.base import Rule, Step


class Bema(Rule):
    """Remembers theta_0 (`first`) and, where not every step updates it, the correction of the last update (`moved`)."""

    def begin(self) -> None:
        pairs = zip(self.weights, self.average.tensors, strict=True)
        self.memory["first"] = [weight.detach().to(tensor.dtype, copy=True) for weight, tensor in pairs]

    def share(self, step: Step, gradients) -> float:
        return falling(step.age, self.spec.ema_power, self.spec.lag)

    def updated(self, step: Step) -> None:
        if self.spec.every > 1:
            self.remember("moved", self.correction(step))

    def served(self, step: Step) -> list[torch.Tensor]:
        if not step.updates:
            return self.average.tensors
        moved = self.memory["moved"] if self.spec.every > 1 else self.correction(step)
        return [t + m.to(t.device) for t, m in zip(self.average.tensors, moved, strict=True)]

    def correction(self, step: Step) -> list[torch.Tensor]:
        """The part of theta - theta_0 that is added."""
        a = falling(step.age, self.spec.bias_power, self.spec.lag)
        return [a * (w.detach().to(f.dtype) - f) for w, f in zip(self.weights, self.memory["first"], strict=True)]


def falling(steps: int, power: float, lag: float) -> float:
    """(1 + lag + steps)^-power."""
    return (1 + lag + steps) ** -power
