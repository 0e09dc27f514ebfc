"""Baselines of rlvr that TRL does not have: leave-one-out (RLOO, 2402.14740), weighted by length (OPO, 2505.23585), or by
gradient (OBLR-PO, 2511.23310).

    A_i = R_i - b,    b = sum_j w_j R_j / sum_j w_j    over the group; leave-one-out leaves j = i out

with w the length of answer j (OPO, whose b has all of the group) or |grad log pi(y_j)|^2 (OBLR-PO, leave-one-out: with its
own reward in it the baseline would be biased). Papers would have the gradient's norm; here it is a proxy that needs no
backward pass, the sum of (1 - p)^2 over the answer's tokens: the square of what the taken token's own logit gets. p is of the
policy that sampled: TRL's old log-probabilities where it has them (always with vLLM, and where a generation serves several
steps), else one forward pass without gradient. The engine's own would be of the truncated distribution with top_p or top_k.
"""

import torch
from trl.models.utils import disable_gradient_checkpointing

from cpt.losses import advantages, gradient_proxy

LEAST = 1e-6  # of the group's largest weight: where all others hardly weigh, they count alike


def group_advantages(name: str, rewards_PG, weights_PG=None):
    """The advantages (P, G) of that name (`losses.advantages`); `weights` are lengths, or squared gradients, or None.

    A reward that is NaN (unscorable) is in no baseline and has no advantage; nor has one that no other stands beside.
    """
    scored_PG = ~rewards_PG.isnan()
    weights_PG = torch.ones_like(rewards_PG) if weights_PG is None else weights_PG
    rewards_PG, weights_PG = rewards_PG.nan_to_num(0.0).double(), (weights_PG * scored_PG).double()
    largest_P1 = weights_PG.amax(1, keepdim=True)
    weights_PG = torch.where(largest_P1 > 0, weights_PG / largest_P1, 1.0).clamp(min=LEAST) * scored_PG
    if name == "leave-one-out":
        name = "gradient-weighted"  # which is it, with weights that are alike or 0
    found_PG = advantages(name, rewards_PG, lengths_PG=weights_PG, gradients_PG=weights_PG)
    return torch.where(scored_PG & (scored_PG.sum(1, keepdim=True) > 1), found_PG, 0.0).float()


class Baseline:
    """The baseline of this name, for a RlvrStageTrainer. Groups may be split over processes."""

    def __init__(self, name: str):
        self.name = name

    def replace_advantages(self, trainer, output: dict) -> None:
        """Replace TRL's advantages in `output` by those of this rank's answers, from `trainer.rewards_NF`."""
        rewards_N = (trainer.rewards_NF * trainer.reward_weights.to(trainer.rewards_NF.device)).nansum(1)
        rewards_N[trainer.rewards_NF.isnan().all(1)] = torch.nan
        rewards_PG = rewards_N.view(-1, trainer.num_generations)
        weights_B = self._weights(trainer, output)
        weights_PG = None if weights_B is None else trainer.accelerator.gather(weights_B).view_as(rewards_PG)
        found_PG = group_advantages(self.name, rewards_PG, weights_PG)
        first = trainer.accelerator.process_index * len(output["advantages"])
        output["advantages"] = found_PG.view(-1)[first : first + len(output["advantages"])]
        trainer._logs["advantages"].extend(found_PG.view(-1).tolist())  # as long as one generation: TRL's go
        baseline_PG = rewards_PG - found_PG
        shift_PG = baseline_PG - rewards_PG.nanmean(1, keepdim=True)
        trainer._metrics["train"]["baseline/mean"].append(baseline_PG.nanmean().item())
        trainer._metrics["train"]["baseline/shift"].append(shift_PG.abs().nanmean().item())

    def _weights(self, trainer, output):
        """What each of this rank's answers weighs in a baseline, (B,); None where all weigh alike."""
        if self.name == "leave-one-out":
            return None
        mask_BT = output["completion_mask"]
        if self.name == "length-weighted":
            return mask_BT.sum(1).float()
        return gradient_proxy(logps_of(trainer, output), mask_BT)


def logps_of(trainer, output) -> torch.Tensor:
    """The log-probabilities of this rank's answers under the policy that sampled them, (B, T): now, or as they were kept."""
    if "old_per_token_logps" in output:
        return output["old_per_token_logps"]
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    with torch.no_grad(), disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs):
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, output["completion_ids"].shape[1], trainer.args.per_device_train_batch_size
        )
    return logps
