"""How much of the live weights an average takes in one update: pure functions, one rule each.

    average <- average + a * (theta - average),  a in [0, 1] of one tensor or of all

`constant` has a = 1 - decay; `warmup` begins with a long step and never averages more than it has seen.

**bema** (2508.00180) lets a fall with a power of the *steps*, however rarely it is updated, and corrects the lag of what is
served by a part of theta - theta_0: with t steps since its beginning, at an update

    average <- average + (1 + lag + t)^-ema_power (theta - average)
    served   = average + (1 + lag + t)^-bias_power (theta - theta_0)

as in the authors' code (github.com/abblock/bema, core_offline.py and core_online.py), which updates every 400 steps. TRL's
callback writes (lag + t): the same with a lag that is smaller by 1.

**LCIA** (2410.10868) asks, tensor by tensor, for the share b of the old weights that balances the loss of theta - b d against
the distance kept from the old, d = theta - average: to second order b = (g.d + |d|) / (d.H.d), which it writes with norms as
b = (|g| + 1) / (|d| |H|). Paper and code disagree: in the paper the ratio weighs the *old* weights and H is the difference
quotient of gradients (that it is divided by the step is our reading; the text was not at hand); in the code the ratio, times
2 and undivided, weighs the *new* ones. Outside (0, 1) both fall back: 0.99 on the old. All norms are sums of absolute values,
so a tensor's size decides whether the ratio is inside at all. Both are here as they are: `lcia-paper`, `lcia-code`.

**balanced** is ours: the same question made scale-free. Of the numerator only the cosine between gradient and drift is kept,
and the denominator is left out: between two steps of stochastic gradients the quotient measures the noise (some 1/learning
rate), not the curvature. With c = cos(g, d), log a = (1 + c) log(1 - decay). Where the loss still falls along the drift
(c < 0) the average follows, up to a = 1; where it rises (c > 0), the live weights have gone too far and the average stays,
down to a = (1 - decay)^2; where drift and gradient are unrelated it is the constant rule. Neither the size of a tensor, nor
the scale of the loss, nor that of the weights changes it. Its drift is that before the step, where the gradient was taken.

**psmt** (2407.02253): average <- m average + (1 - m) (decay average + (1 - decay) theta), elementwise, m = 1 where the Fisher
is largest: what matters most stays. That is the paper's equation, read by its abstract ("preservation measures applied to
crucial parameters"; the text's definition of m was not at hand), with the .03 of the code. The authors' code does otherwise:
m marks what lies *below* the .03 quantile, over all tensors, of this step's squared gradients. The student has that put back
to the source model, the teacher takes it from the student, and all else has the average's update twice. Here the .03 are of
each tensor (layers differ in scale). The Fisher is the mean of squared gradients over all updates so far: it still knows what
mattered to earlier tasks, where Adam's accumulator begins anew with each stage, and any optimiser will do. The student is not
touched, and its regulariser is not here.
"""

from collections.abc import Sequence
from functools import cache

import torch

SAMPLE = 1 << 16  # elements that a quantile of a large tensor is taken from


def constant(decay: float) -> float:
    return 1 - decay


def warmup(decay: float, updates: int) -> float:
    """`updates` already made: 1 - min(decay, (1 + updates) / (10 + updates))."""
    return 1 - min(decay, (1 + updates) / (10 + updates))


def falling(steps: int, power: float, lag: float) -> float:
    """(1 + lag + steps)^-power: BEMA's weight of the average (ema_power) and of its correction (bias_power)."""
    return (1 + lag + steps) ** -power


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


def balanced(gradients: Sequence[torch.Tensor], drifts: Sequence[torch.Tensor], decay: float) -> torch.Tensor:
    """(tensors): (1 - decay)^(1 + cos(g, d))."""
    dots = torch.stack([torch.dot(g.flatten(), d.flatten()) for g, d in zip(gradients, drifts, strict=True)])
    sizes = norms(gradients, 2) * norms(drifts, 2)
    cosine = torch.where(sizes > 0, dots / sizes.clamp(min=torch.finfo(sizes.dtype).tiny), 0.0).clamp(-1, 1)
    return (1 - decay) ** (1 + cosine)


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


def inside(ratio: torch.Tensor, otherwise: float) -> torch.Tensor:
    """The ratio where it is in (0, 1), else `otherwise` (also for NaN)."""
    return torch.where((ratio > 0) & (ratio < 1), ratio, otherwise)


def norms(tensors: Sequence[torch.Tensor], order: int) -> torch.Tensor:
    """(tensors) in the tensors' dtype."""
    return torch.stack(torch._foreach_norm(list(tensors), order))
