"""The unified policy gradient estimator (2509.04419): SFT and RL as one estimator with four interchangeable parts.

    gradient = 1_stable * (1 / pi_ref) * A * grad pi        for each token

a stabilisation mask, the denominator pi_ref, an advantage A, and a likelihood gradient (of pi itself, or of a function f of
it). `surrogate` gives a loss per token whose gradient is minus that; METHODS names the four parts of each method. Pure
functions of tensors. B completions of T tokens, P prompts of G rollouts; logps are log-probabilities (nats) of the tokens
taken; everything but the policy's own logps is a constant.
"""

from dataclasses import dataclass
from math import inf

import torch

EPSILON = 1e-4  # added to a standard deviation before dividing by it (TRL's)


@dataclass(frozen=True)
class Method:
    """The four parts, by name."""

    mask: str  # none | clip | dual-clip | sequence-clip
    reference: str  # current | old | sampler | one | sequence | cispo | phi
    advantage: str  # see ADVANTAGES; `fixed` is 1
    likelihood: str = "identity"  # identity | shaped


METHODS = {
    "sft": Method("none", "current", "fixed"),
    "dft": Method("none", "one", "fixed"),  # 2508.05629: NLL times sg(p), so the gradient of p itself
    "chord-phi": Method("none", "phi", "fixed"),  # 2508.11408: NLL times sg(p (1 - p))
    "reinforce": Method("none", "current", "raw"),
    "ppo": Method("clip", "old", "raw"),  # 1707.06347; the advantage (GAE) is the caller's
    "grpo": Method("clip", "old", "group-mean-std"),  # 2402.03300
    "dr-grpo": Method("clip", "old", "group-mean"),  # 2503.20783; divided by a constant length
    "rloo": Method("clip", "old", "leave-one-out"),  # 2402.14740
    "opo": Method("none", "current", "length-weighted"),  # 2505.23585
    "oblr-po": Method("none", "current", "gradient-weighted"),  # 2511.23310
    "dual-clip": Method("dual-clip", "old", "group-mean-std"),  # 1912.09729
    "cispo": Method("none", "cispo", "group-mean-std"),  # 2506.13585
    "gspo": Method("sequence-clip", "sequence", "group-mean-std"),  # 2507.18071
    "luffy-demonstration": Method("none", "one", "group-mean", "shaped"),  # 2504.14945
    "srft-demonstration": Method("none", "one", "group-mean-std"),  # 2506.19767
}


@dataclass(frozen=True)
class Bounds:
    """Of the ratio pi / pi_old. `cap` bounds it for negative advantages (dual clip), `ceiling` for CISPO (absolute)."""

    low: float = 0.2
    high: float = 0.2
    cap: float = inf
    ceiling: float = 5.0


# -- the denominator and the likelihood ------------------------------------------------------------------------------------


def weight(name: str, logps_BT, old_BT=None, sampler_BT=None, mask_BT=None, bounds: Bounds = Bounds()):
    """pi / sg(pi_ref): a value that gradients flow through as grad pi / pi_ref. `old` and `sampler` default to the policy."""
    now = logps_BT.detach()
    old = now if old_BT is None else old_BT
    if name == "current":
        return torch.exp(logps_BT - now)
    if name == "old":
        return torch.exp(logps_BT - old)
    if name == "sampler":
        return torch.exp(logps_BT - (now if sampler_BT is None else sampler_BT))
    if name == "one":
        return torch.exp(logps_BT)
    if name == "phi":
        return torch.exp(logps_BT) * (1 - torch.exp(now))
    if name == "cispo":
        return torch.exp(logps_BT - now) * torch.exp(now - old).clamp(max=bounds.ceiling)
    if name == "sequence":
        return torch.exp(logps_BT - now) * sequence_ratio(now, old, mask_BT)
    raise ValueError(f"no reference {name!r}: there are current, old, sampler, one, phi, cispo, sequence")


def sequence_ratio(logps_BT, old_BT, mask_BT):
    """(pi / pi_old)^(1 / length) of each whole sequence, (B, 1)."""
    mean_B1 = ((logps_BT - old_BT) * mask_BT).sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True).clamp(min=1)
    return torch.exp(mean_B1)


def shaped(p, gamma: float = 0.1):
    """LUFFY's policy shaping f(p) = p / (p + gamma): lifts the gradient of unlikely tokens."""
    return p / (p + gamma)


# -- the stabilisation mask ------------------------------------------------------------------------------------------------


def stable(name: str, logps_BT, advantages_BT, old_BT=None, mask_BT=None, bounds: Bounds = Bounds()):
    """1 for the tokens whose gradient is kept, 0 for those outside the trust region."""
    now = logps_BT.detach()
    if name == "none" or old_BT is None:
        return torch.ones_like(now)
    if name not in ("clip", "dual-clip", "sequence-clip"):
        raise ValueError(f"no mask {name!r}: there are none, clip, dual-clip, sequence-clip")
    ratio = sequence_ratio(now, old_BT, mask_BT) if name == "sequence-clip" else torch.exp(now - old_BT)
    outside = ((ratio > 1 + bounds.high) & (advantages_BT > 0)) | ((ratio < 1 - bounds.low) & (advantages_BT < 0))
    if name == "dual-clip":
        outside = outside | ((ratio > bounds.cap) & (advantages_BT < 0))
    return (~outside).to(now.dtype)


# -- the advantage ---------------------------------------------------------------------------------------------------------


def centred(rewards_PG):
    """R minus the mean of its group. NaN (unscorable) is in no mean and has no advantage: 0, here and below."""
    return torch.where(rewards_PG.isnan(), 0.0, rewards_PG - group_mean(rewards_PG))


def standardised(rewards_PG):
    """R minus the mean of its group, over its (unbiased) standard deviation; 0 where fewer than two are scored."""
    return centred(rewards_PG) / (group_deviation(rewards_PG) + EPSILON)


def group_mean(rewards_PG):
    """The mean of the scored rewards of each group, (P, 1); 0 where there are none."""
    return rewards_PG.nanmean(1, keepdim=True).nan_to_num(0.0)


def group_deviation(rewards_PG):
    """Their unbiased standard deviation, (P, 1); 0 where fewer than two are scored."""
    squares_P1 = (centred(rewards_PG) ** 2).sum(1, keepdim=True)
    return (squares_P1 / ((~rewards_PG.isnan()).sum(1, keepdim=True) - 1).clamp(min=1)).sqrt()


def leave_one_out(rewards_PG, weights_PG=None):
    """R_i minus the (weighted) mean of the other rewards of its group: a baseline that does not depend on its own draw.

    0 for one that no other stands beside.
    """
    scored_PG, rewards_PG = ~rewards_PG.isnan(), rewards_PG.nan_to_num(0.0)
    weights_PG = scored_PG * (1.0 if weights_PG is None else weights_PG)
    total = (weights_PG * rewards_PG).sum(1, keepdim=True) - weights_PG * rewards_PG
    baseline_PG = total / (weights_PG.sum(1, keepdim=True) - weights_PG).clamp(min=1e-12)
    return torch.where(scored_PG & (scored_PG.sum(1, keepdim=True) > 1), rewards_PG - baseline_PG, 0.0)


def length_weighted(rewards_PG, lengths_PG):
    """R minus the mean of its group weighted by length: optimal where |grad log pi|^2 grows with length (OPO)."""
    scored_PG, rewards_PG = ~rewards_PG.isnan(), rewards_PG.nan_to_num(0.0)
    lengths_PG = lengths_PG * scored_PG
    mean_P1 = (lengths_PG * rewards_PG).sum(1, keepdim=True) / lengths_PG.sum(1, keepdim=True).clamp(min=1e-12)
    return torch.where(scored_PG, rewards_PG - mean_P1, 0.0)


def gradient_proxy(logps_BT, mask_BT):
    """A stand-in for |grad log pi(y)|^2 that needs no gradient: the sum of (1 - p)^2 over the tokens of y, (B,)."""
    return ((1 - torch.exp(logps_BT)) ** 2 * mask_BT).sum(1)


def advantages(name: str, rewards_PG, lengths_PG=None, gradients_PG=None):
    """The advantage of that name, (P, G). `gradients`: |grad log pi|^2 of each rollout, or its proxy."""
    if name == "fixed":
        return (~rewards_PG.isnan()).to(rewards_PG.dtype)
    if name == "raw":
        return rewards_PG.nan_to_num(0.0)
    if name == "group-mean":
        return centred(rewards_PG)
    if name == "group-mean-std":
        return standardised(rewards_PG)
    if name == "leave-one-out":
        return leave_one_out(rewards_PG)
    if name == "length-weighted":
        return length_weighted(rewards_PG, lengths_PG)
    if name == "gradient-weighted":
        return leave_one_out(rewards_PG, gradients_PG)
    raise ValueError(
        f"no advantage {name!r}: there are fixed, raw, group-mean, group-mean-std, leave-one-out, length-weighted, "
        "gradient-weighted"
    )


# -- together --------------------------------------------------------------------------------------------------------------


def surrogate(
    method: Method,
    logps_BT,
    advantages_BT,
    mask_BT,
    old_BT=None,
    sampler_BT=None,
    bounds: Bounds = Bounds(),
):
    """The loss of each token, (B, T); 0 where `mask` is 0. `advantages` may be (B, 1).

    Its gradient is the estimator's. Its value is -weight * A where the reference is not the policy itself, else the negative
    log-likelihood times A: what people expect to read in a log.
    """
    value = weight(method.reference, logps_BT, old_BT, sampler_BT, mask_BT, bounds)
    if method.likelihood == "shaped":
        value = shaped(value)
    if method.reference == "current":
        value = logps_BT  # the same gradient, and the likelihood for a value
    kept = stable(method.mask, logps_BT, advantages_BT, old_BT, mask_BT, bounds)
    return torch.where(mask_BT.bool(), -kept * advantages_BT * value, 0.0)


def entropy_weight(entropies_BT, mask_BT, scale: float, sign: float):
    """SRFT's `scale * sg(exp(sign * H))`, (B, 1): H is the mean token entropy (nats) of the sequence."""
    mean_B1 = (entropies_BT * mask_BT).sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True).clamp(min=1)
    return scale * torch.exp(sign * mean_B1.detach())
