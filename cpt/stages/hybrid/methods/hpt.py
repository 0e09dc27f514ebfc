"""Hybrid post-training (HPT, 2509.04419): each prompt goes to RL or to SFT, by how many of its rollouts are right.

    correct > gamma: RL on the rollouts (Dr. GRPO)      correct <= gamma: SFT on the demonstration, the rollouts dropped

The gate counts correct rollouts, an integer: a reward that is -1 for a bad format cannot shift it. `gate: soft` gives each
prompt both, by the share of its scored rollouts that is right. `alpha` and `beta` weigh the two losses (the authors'
script sets beta to 0.3 for Qwen2.5-Math-1.5B: exp_scripts/train.sh, SFT_LOSS_COEF).

What the two losses are means over (`mixing`):

1. `branch` (ours, the default): each branch is a mean over its own rows of the whole batch (RL over rollouts, SFT over
   tokens). One prompt alone on the SFT branch weighs as much as all the others together.
2. `question` (Algorithm 1 of the paper): each question has alpha L_RL + beta L_SFT of its own, L_RL a mean over its
   rollouts and L_SFT over its demonstration's tokens, and the loss is the mean over the questions of the batch.
3. The authors' code has neither: it sums RL over a rank's mini-batch (over the constant length) beside one mean over tokens
   of SFT for each micro-batch that holds demonstrations, so that packing decides the mix (mix_actor.py). Not offered.

The ratio of rollouts is not clipped unless `clip` says so (their script: loss_remove_clip).
"""

import torch

from cpt.losses import METHODS, centred
from cpt.stages.hybrid.methods.base import Groups, HybridMethod, Mix


class Hpt(HybridMethod):
    rollouts = METHODS["dr-grpo"]

    def __init__(self, spec):
        super().__init__(spec)
        if spec.mixing == "question":
            self.demonstration_length = "sequence"

    def mix(self, groups: Groups, step: int) -> Mix:
        taught_P = self.share_of_demonstration(groups) * groups.demonstrated_P  # without a demonstration: RL
        rollouts_PG, counts = (1 - taught_P)[:, None] * groups.scored_PG, {}
        if self.spec.mixing == "question":
            rollouts_PG = rollouts_PG / groups.scored_PG.sum(1, keepdim=True).clamp(min=1)
            counts = dict.fromkeys(("rollout_count", "demonstration_count"), float(len(taught_P)))
        return Mix(
            rollout_weights_PG=rollouts_PG,
            advantages_PG=centred(groups.rewards_PG),
            demonstration_weights_P=taught_P,
            demonstration_advantages_P=torch.ones_like(taught_P),
            rollout_scale=self.spec.alpha,
            demonstration_scale=self.spec.beta,
            **counts,
        )

    def share_of_demonstration(self, groups: Groups) -> torch.Tensor:
        """(P,): 1 where a prompt is taught by its demonstration, 0 where by its rollouts; with the soft gate between."""
        correct_P = groups.correct_PG.sum(1)
        if self.spec.gate == "soft":
            return 1 - correct_P / groups.scored_PG.sum(1).clamp(min=1)
        return (correct_P <= self.spec.gamma).to(groups.rewards_PG.dtype)
