"""ReLIFT (2506.07527): RL every step; prompts that no rollout solves are kept, and taught by demonstration when enough are.

As in the authors' code (relift/verl/verl/relift/trainer.py and actor.py, examples/math-1.5b/train.sh): the advantage has no
deviation, the loss is over a constant length, the ratio is not clipped; kept prompts are taught newest first, `buffer` of
them in one SFT step, at most one after each generation's RL steps (`stages.buffer`).

Ours, as options: `rl: grpo` (deviation, a mean over each answer's tokens, clipped) and `recheck` (kept prompts are asked once
more, and those that are solved by now are left out).
"""

import torch

from cpt.losses import METHODS, centred, standardised
from cpt.stages.hybrid.methods.base import Groups, HybridMethod, Mix


class Relift(HybridMethod):
    keeps_unsolved = True

    def __init__(self, spec):
        self.rollouts = METHODS[spec.rl]
        self.rollout_length = "sequence" if spec.rl == "grpo" else "constant"
        super().__init__(spec)

    def mix(self, groups: Groups, step: int) -> Mix:
        none_P = torch.zeros_like(groups.rewards_PG[:, 0])
        return Mix(
            rollout_weights_PG=groups.scored_PG,
            advantages_PG=(standardised if self.spec.rl == "grpo" else centred)(groups.rewards_PG),
            demonstration_weights_P=none_P,
            demonstration_advantages_P=none_P,
        )
