"""CHORD (2508.11408): one loss, (1 - mu) L_GRPO + mu L_SFT, in which mu falls; CHORD-phi weighs the SFT loss token by token.

mu rises linearly to `mu_peak` over `mu_warmup` steps, and falls by a cosine to `mu_valley` over `mu_decay` steps more; it
depends on the step alone, so a resumed stage continues with it. CHORD-phi multiplies the NLL of a token by sg(p (1 - p)):
what is learnt already and what is far from the policy both weigh little; its mu stays. Both losses are means over tokens,
and the ratio is clipped, as in the authors' code (Trinity-RFT: chord_policy_loss.py, ppo_policy_loss.py,
examples/mix_chord).

The demonstrations are those of the batch's own prompts; the authors draw expert rows of their own (a fifth of a batch). Their
means are of micro-batches, ours of the whole batch.
"""

import math

import torch

from cpt.losses import METHODS, standardised
from cpt.stages.hybrid.methods.base import Groups, HybridMethod, Mix


def mu_at(step: int, peak: float, valley: float, warmup: int, decay: int) -> float:
    """The share of the SFT loss after `step` optimiser steps."""
    if step < warmup:
        return peak * (step + 1) / warmup
    gone = min(1.0, (step - warmup) / decay) if decay else 1.0
    return valley + (peak - valley) * (1 + math.cos(math.pi * gone)) / 2


class Chord(HybridMethod):
    rollouts = METHODS["grpo"]
    rollout_length = "token"
    peak, valley = 0.9, 0.05  # chord-mu, the authors' example (mix_chord.yaml)

    def mix(self, groups: Groups, step: int) -> Mix:
        peak = self.peak if self.spec.mu_peak is None else self.spec.mu_peak
        valley = self.valley if self.spec.mu_valley is None else self.spec.mu_valley
        mu = mu_at(step, peak, valley, self.spec.mu_warmup, self.spec.mu_decay)
        demonstrated_P = groups.demonstrated_P.to(groups.rewards_PG.dtype)
        return Mix(
            rollout_weights_PG=groups.scored_PG,
            advantages_PG=standardised(groups.rewards_PG),
            demonstration_weights_P=demonstrated_P,
            demonstration_advantages_P=torch.ones_like(demonstrated_P),
            rollout_scale=1 - mu,
            demonstration_scale=mu,
        )


class ChordPhi(Chord):
    demonstrations = METHODS["chord-phi"]
    peak = valley = 0.1  # chord-phi, the same example
