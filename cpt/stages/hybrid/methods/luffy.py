"""LUFFY (2504.14945): the demonstration is one more member of the group, off-policy, with its gradient shaped.

    A = R - mean of rollouts and demonstration        demonstration: loss -A f(p), f(p) = p / (p + 0.1), never clipped

The teacher's probability is taken as 1 (the authors' code, mix_core_alg.py). Where demonstration and rollouts are all right
A is 0, and nothing is imitated. Rollouts and demonstrations are averaged together. The paper's group of 8 is 7 rollouts and
1 demonstration: `num_generations: 7`. The ratio of rollouts is not clipped unless `clip` says so (their script,
exp_scripts/train.sh: loss_remove_clip). Their loss is a sum over a rank's rows where ours is a mean, which Adam does not see.
"""

import torch

from cpt.losses import METHODS
from cpt.stages.hybrid.methods.base import Groups, HybridMethod, Mix


def with_demonstration(groups: Groups) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, standard deviation), (P, 1) each, of the rewards of scored rollouts and demonstration, where there is one.

    0 where there is none of them; the deviation (unbiased) 0 where there is one alone.
    """
    there_PM = torch.cat([groups.scored_PG, groups.demonstrated_P[:, None].float()], dim=1)
    rewards_PM = torch.cat([groups.rewards_PG.nan_to_num(0.0), groups.demonstration_rewards_P[:, None]], dim=1)
    count_P1 = there_PM.sum(1, keepdim=True)
    mean_P1 = (rewards_PM * there_PM).sum(1, keepdim=True) / count_P1.clamp(min=1)
    variance_P1 = (((rewards_PM - mean_P1) ** 2) * there_PM).sum(1, keepdim=True) / (count_P1 - 1).clamp(min=1)
    return mean_P1, variance_P1.sqrt()


class Luffy(HybridMethod):
    rollouts = METHODS["dr-grpo"]
    demonstrations = METHODS["luffy-demonstration"]
    demonstration_length = "constant"
    asks_demonstration_rewards = True

    def mix(self, groups: Groups, step: int) -> Mix:
        mean_P1, _ = with_demonstration(groups)
        return Mix(
            rollout_weights_PG=groups.scored_PG,
            advantages_PG=(groups.rewards_PG - mean_P1).nan_to_num(0.0),
            demonstration_weights_P=groups.demonstrated_P.to(mean_P1.dtype),
            demonstration_advantages_P=groups.demonstration_rewards_P - mean_P1[:, 0],
            together=True,
        )
