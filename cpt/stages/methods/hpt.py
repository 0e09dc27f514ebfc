"""Hybrid post-training (HPT, 2509.04419): each prompt goes to RL or to SFT, by how many of its rollouts are right.

    correct > gamma: RL on the rollouts (Dr. GRPO)      correct <= gamma: SFT on the demonstration, the rollouts dropped

The gate counts correct rollouts, an integer: a reward that is -1 for a bad format cannot shift it. In the authors' code the
weight of the two branches depends on how rows are packed into micro-batches; here each branch is a mean over its own rows of
the whole batch, and alpha and beta weigh the two: one prompt alone on the SFT branch weighs as much as all the others. `gate:
soft` gives each prompt both, by the share that is right.
"""

import torch

from cpt.losses import METHODS, centred
from cpt.stages.methods.base import Groups, HybridMethod, Mix


class Hpt(HybridMethod):
    rollouts = METHODS["dr-grpo"]

    def mix(self, groups: Groups, step: int) -> Mix:
        correct_P = groups.correct_PG.sum(1)
        if self.spec.gate == "soft":
            demonstration_P = 1 - correct_P / groups.correct_PG.shape[1]
        else:
            demonstration_P = (correct_P <= self.spec.gamma).to(groups.rewards_PG.dtype)
        demonstration_P = demonstration_P * groups.demonstrated_P  # without a demonstration: RL
        return Mix(
            rollout_weights_PG=(1 - demonstration_P)[:, None].expand_as(groups.rewards_PG),
            advantages_PG=centred(groups.rewards_PG),
            demonstration_weights_P=demonstration_P,
            demonstration_advantages_P=torch.ones_like(demonstration_P),
            rollout_scale=self.spec.alpha,
            demonstration_scale=self.spec.beta,
        )
