"""LUFFY (2504.14945): the demonstration is one more member of the group, off-policy, with its gradient shaped.

    A = R - mean of rollouts and demonstration        demonstration: loss -A f(p), f(p) = p / (p + 0.1), never clipped

The teacher's probability is taken as 1 (the authors' code). Where demonstration and rollouts are all right A is 0, and
nothing is imitated. Rollouts and demonstrations are averaged together. The paper's group of 8 is 7 rollouts and 1
demonstration: `num_generations: 7`.
"""

import torch

from cpt.losses import METHODS
from cpt.stages.methods.base import Groups, HybridMethod, Mix


def with_demonstration(groups: Groups) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, standard deviation), (P, 1) each, of the rewards of rollouts and demonstration, where there is one."""
    rewards_PM = torch.cat([groups.rewards_PG, groups.demonstration_rewards_P[:, None]], dim=1)
    there_PM = torch.ones_like(rewards_PM)
    there_PM[:, -1] = groups.demonstrated_P
    count_P1 = there_PM.sum(1, keepdim=True)
    mean_P1 = (rewards_PM * there_PM).sum(1, keepdim=True) / count_P1
    variance_P1 = (((rewards_PM - mean_P1) ** 2) * there_PM).sum(1, keepdim=True) / (count_P1 - 1)
    return mean_P1, variance_P1.sqrt()


class Luffy(HybridMethod):
    rollouts = METHODS["dr-grpo"]
    demonstrations = METHODS["luffy-demonstration"]
    demonstration_length = "constant"
    asks_demonstration_rewards = True

    def mix(self, groups: Groups, step: int) -> Mix:
        mean_P1, _ = with_demonstration(groups)
        return Mix(
            rollout_weights_PG=torch.ones_like(groups.rewards_PG),
            advantages_PG=groups.rewards_PG - mean_P1,
            demonstration_weights_P=groups.demonstrated_P.to(mean_P1.dtype),
            demonstration_advantages_P=groups.demonstration_rewards_P - mean_P1[:, 0],
            together=True,
        )
