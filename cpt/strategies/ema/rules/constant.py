"""`constant` and `warmup`: shares that look at no weights."""

from cpt.strategies.ema.rules.base import Rule


class Constant(Rule):
    """a = 1 - decay (Polyak and Juditsky 1992, in exponential form)."""

    def share(self, step, gradients) -> float:
        return 1 - self.spec.decay


class Warmup(Rule):
    """Begins with a long step and never averages more than it has seen."""

    def share(self, step, gradients) -> float:
        return warmup(self.spec.decay, step.updates)


def warmup(decay: float, updates: int) -> float:
    """1 - min(decay, (1 + updates) / (10 + updates)), of the `updates` made before."""
    return 1 - min(decay, (1 + updates) / (10 + updates))
