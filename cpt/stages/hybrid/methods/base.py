"""What a hybrid method decides: which rollouts and demonstrations count, with what advantage, and the loss of their tokens.

P prompts of G rollouts each, and at most one demonstration a prompt: always those of the whole generation batch, over all
ranks, so that no packing into micro-batches can change the mix.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from cpt.losses import METHODS, Bounds, Method, surrogate
from cpt.recipe.stages import Hybrid


@dataclass(frozen=True)
class Groups:
    """What the rollouts of one generation were worth.

    The reward of an unscorable rollout is NaN: it is never correct, has no advantage, and is in no mean or deviation.
    `demonstration_rewards` are 0 where a prompt has none (`demonstrated`), and where the method does not ask for them.
    """

    rewards_PG: torch.Tensor
    correct_PG: torch.Tensor  # bool
    demonstrated_P: torch.Tensor  # bool
    demonstration_rewards_P: torch.Tensor

    @property
    def scored_PG(self) -> torch.Tensor:
        """1.0 for the rollouts that could be scored: the weight of each where all are trained on."""
        return (~self.rewards_PG.isnan()).float()


@dataclass(frozen=True)
class Mix:
    """The weights (0: left out) and advantages of one generation, and the scales of the two branches.

    A branch is divided by its count: the sum of its weights (times lengths, where it is a mean over tokens) unless
    `rollout_count` or `demonstration_count` says otherwise; `together` divides both by the sum of the two.
    """

    rollout_weights_PG: torch.Tensor
    advantages_PG: torch.Tensor
    demonstration_weights_P: torch.Tensor
    demonstration_advantages_P: torch.Tensor
    rollout_scale: float = 1.0
    demonstration_scale: float = 1.0
    rollout_count: float | None = None
    demonstration_count: float | None = None
    together: bool = False


class HybridMethod(ABC):
    """`rollouts` and `demonstrations` name the estimators (`losses.METHODS`); the lengths say what a row is divided by.

    constant: max_completion_length (Dr. GRPO); sequence: its own length; token: nothing, and the count is of tokens.
    """

    rollouts: Method
    demonstrations: ClassVar[Method] = METHODS["sft"]
    rollout_length: str = "constant"
    demonstration_length: str = "token"
    asks_demonstration_rewards: ClassVar[bool] = False
    keeps_unsolved: ClassVar[bool] = False  # in a buffer, for SFT steps of their own

    def __init__(self, spec: Hybrid):
        self.spec = spec
        if not spec.clips:
            self.rollouts = replace(self.rollouts, mask="none")

    @abstractmethod
    def mix(self, groups: Groups, step: int) -> Mix:
        """`step`: the optimiser steps taken before."""

    def rollout_loss(self, logps_BT, entropies_BT, advantages_B1, mask_BT, old_BT, bounds: Bounds):
        """The loss of each token of the rollouts."""
        return surrogate(self.rollouts, logps_BT, advantages_B1, mask_BT, old_BT, bounds=bounds)

    def demonstration_loss(self, logps_BT, entropies_BT, advantages_B1, mask_BT):
        """The loss of each token of the demonstrations."""
        return surrogate(self.demonstrations, logps_BT, advantages_B1, mask_BT)
