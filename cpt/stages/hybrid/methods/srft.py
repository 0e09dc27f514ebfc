"""Single-stage SFT and RL (SRFT, 2506.19767): four terms in one step, the imitation weighed by entropy.

    w_sft NLL(demo) + L_RL(demo) - w_rl E[log pi(y+)] + E[log pi(y-)]
    w_sft = 0.5 sg(exp(-H)),  w_rl = 0.1 sg(exp(+H)),  H the mean token entropy of the sequence (nats)

L_RL(demo) is -A p with the group's advantage (rollouts and demonstration, over their deviation). y+ are the right rollouts,
y- the wrong ones; each expectation is over its own sign, and a sign with no rollout has no term. log pi(y-) has no lower
bound, so a step must be clipped: `max_grad_norm` may not be 0.

The authors' own code was not found. The factors 0.5 and 0.1 were read in a reimplementation by HPT's authors (2509.04419,
mix_actor.py and mix_core_alg.py, offline_loss_type srft), which differs from the above in more: it shapes the demonstration's
p to p / (p + 0.1), its advantage has no deviation, both signs and the demonstration are summed together over one constant
length (so that the commoner sign weighs more), and NLL(demo) is a mean over the tokens of a micro-batch.
"""

import torch

from cpt.losses import EPSILON, METHODS, entropy_weight, surrogate
from cpt.stages.hybrid.methods.base import Groups, HybridMethod, Mix
from cpt.stages.hybrid.methods.luffy import with_demonstration

W_SFT, W_RL = 0.5, 0.1  # HPT's reimplementation (see above)


class Srft(HybridMethod):
    rollouts = METHODS["reinforce"]
    demonstrations = METHODS["srft-demonstration"]
    rollout_length = demonstration_length = "sequence"
    asks_demonstration_rewards = True

    def mix(self, groups: Groups, step: int) -> Mix:
        mean_P1, deviation_P1 = with_demonstration(groups)
        right = groups.correct_PG
        wrong = ~right & ~groups.rewards_PG.isnan()
        advantage_P = (groups.demonstration_rewards_P - mean_P1[:, 0]) / (deviation_P1[:, 0] + EPSILON)
        return Mix(
            rollout_weights_PG=right / right.sum().clamp(min=1) + wrong / wrong.sum().clamp(min=1),
            advantages_PG=right.float() - wrong.float(),
            demonstration_weights_P=groups.demonstrated_P.to(mean_P1.dtype),
            demonstration_advantages_P=advantage_P,
            rollout_count=1.0,
        )

    def rollout_loss(self, logps_BT, entropies_BT, advantages_B1, mask_BT, old_BT, bounds):
        raised_B1 = entropy_weight(entropies_BT, mask_BT, W_RL, 1.0)
        weighed_B1 = torch.where(advantages_B1 > 0, raised_B1, advantages_B1)
        return super().rollout_loss(logps_BT, entropies_BT, weighed_B1, mask_BT, old_BT, bounds)

    def demonstration_loss(self, logps_BT, entropies_BT, advantages_B1, mask_BT):
        lowered_B1 = entropy_weight(entropies_BT, mask_BT, W_SFT, -1.0)
        imitation = surrogate(METHODS["sft"], logps_BT, lowered_B1, mask_BT)
        return imitation + super().demonstration_loss(logps_BT, entropies_BT, advantages_B1, mask_BT)
