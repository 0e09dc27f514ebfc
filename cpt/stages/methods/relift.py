"""ReLIFT (2506.07527): RL every step; prompts that no rollout solves are kept, and taught by demonstration when enough are.

When `buffer` prompts are kept they are asked once more (a group of rollouts each), and one SFT step, with an AdamW and a
learning rate of its own, is taken on the demonstrations of those that are still unsolved (`stages.buffer`).
"""

import torch

from cpt.losses import METHODS, standardised
from cpt.stages.methods.base import Groups, HybridMethod, Mix


class Relift(HybridMethod):
    rollouts = METHODS["grpo"]
    rollout_length = "sequence"
    keeps_unsolved = True

    def mix(self, groups: Groups, step: int) -> Mix:
        none_P = torch.zeros_like(groups.rewards_PG[:, 0])
        return Mix(
            rollout_weights_PG=torch.ones_like(groups.rewards_PG),
            advantages_PG=standardised(groups.rewards_PG),
            demonstration_weights_P=none_P,
            demonstration_advantages_P=none_P,
        )
