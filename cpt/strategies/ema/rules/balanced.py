"""`balanced`, ours: the question of LCIA (2410.10868) without a scale.

Of LCIA's numerator only the cosine between gradient and drift is kept, and the denominator is left out: between two steps of
stochastic gradients the quotient measures the noise (some 1/learning rate), not the curvature. With c = cos(g, d),
d = theta - average before the step, where the gradient was taken:

    a = (1 - decay)^(1 + c)

Where the loss still falls along the drift (c < 0) the average follows, up to a = 1; where it rises (c > 0), the live weights
have gone too far and the average stays, down to a = (1 - decay)^2; where drift and gradient are unrelated it is the constant
rule. Neither the size of a tensor, nor the scale of the loss, nor that of the weights changes it.
"""

from collections.abc import Sequence

import torch

from cpt.strategies.ema.rules.base import Rule, norms


class Balanced(Rule):
    gradients = "before"

    def share(self, step, gradients) -> list[float]:
        return self.of_each_tensor(
            self.in_dtype(gradients), lambda group, g, drifts: balanced(g, drifts, self.spec.decay)
        )


def balanced(gradients: Sequence[torch.Tensor], drifts: Sequence[torch.Tensor], decay: float) -> torch.Tensor:
    """(tensors): (1 - decay)^(1 + cos(g, d))."""
    dots = torch.stack([torch.dot(g.flatten(), d.flatten()) for g, d in zip(gradients, drifts, strict=True)])
    sizes = norms(gradients, 2) * norms(drifts, 2)
    cosine = torch.where(sizes > 0, dots / sizes.clamp(min=torch.finfo(sizes.dtype).tiny), 0.0).clamp(-1, 1)
    return (1 - decay) ** (1 + cosine)
