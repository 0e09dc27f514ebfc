"""Hybrid post-training: demonstrations and rollouts in one step, on TRL's GRPOTrainer and the run's own rollout engine.

What the two are worth is a method's (`stages.methods`), of all rows of a generation over all ranks; each row then carries its
weight through shuffling and micro-batches, and each branch is divided by its count in the whole batch. So neither packing
nor accumulation nor the number of processes changes the mix. The demonstration of a prompt travels with its first rollout.
Rollouts are scored at the temperature they were sampled at, demonstrations at 1. `entropy_coef` (TRL's) weighs the mean
entropy of the tokens that are trained on, rollouts and demonstrations alike (so do HPT, LUFFY and ReLIFT).
"""

import torch
from trl.trainer.utils import pad as padded

from cpt import ranks
from cpt.context import Services, Stage
from cpt.data.encoding import Encoder, encoder_of
from cpt.data.rows import demonstration_of, lesson, unpack
from cpt.errors import UserError
from cpt.losses import METHODS, Bounds, surrogate
from cpt.records import StageRecord
from cpt.stages.configs import make_config
from cpt.stages.generation import uncounted
from cpt.stages.heads import SftHead
from cpt.stages.hybrid.buffer import UnsolvedBuffer
from cpt.stages.hybrid.methods import HYBRIDS, Groups, HybridMethod, Mix
from cpt.stages.rlvr import RlvrStageTrainer, make_trainer
from cpt.stages.trainer import OF_A_MODEL
from cpt.stages.training import train


class HybridStageTrainer(RlvrStageTrainer):
    """RlvrStageTrainer whose rows may have demonstrations (`demonstration_ids`), and whose loss is a method's.

    `score(inputs, texts)` gives the rewards of these answers to the rows (None: unscorable); `buffer` keeps unsolved rows.
    """

    _name = "HybridStageTrainer"

    def __init__(self, *args, method: HybridMethod, score, buffer: UnsolvedBuffer | None, **kwargs):
        self.method, self.score_answers, self.buffer = method, score, buffer
        super().__init__(*args, **kwargs)
        self.sft_head = SftHead(self)
        self.last_norm = last_norm(self.model)
        self.branch_gradients = None  # of the last norm's weights, in this optimiser step so far: (2, width)

    # -- what the rows are worth ---------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        own, group = len(inputs), self.num_generations
        first = self.accelerator.process_index * own
        mine = slice(first, first + own)
        ids = [x["demonstration_ids"] if (first + i) % group == 0 else [] for i, x in enumerate(inputs)]
        rewards_B = self._demonstration_rewards(inputs, ids)
        device = self.accelerator.device
        local = torch.tensor(
            [[len(each) for each in ids], rewards_B, [0.0] * own], dtype=torch.float64, device=device
        ).T
        local[:, 2] = output["completion_mask"].sum(1)
        lengths_N, rewards_N, rollout_lengths_N = self.accelerator.gather(local.contiguous()).T
        demonstrated_P = (lengths_N[::group] > 0) & ~rewards_N[::group].isnan()
        groups = self._groups(demonstrated_P, rewards_N[::group].nan_to_num(0.0).float())
        mix = self.method.mix(groups, self.state.global_step)
        counts = self._counts(mix, rollout_lengths_N, lengths_N[::group])
        if self.buffer is not None:
            unsolved_B = (~groups.correct_PG.any(1) & demonstrated_P).repeat_interleave(group)[mine].tolist()
            self.buffer.keep(
                ranks.gather([x for x, each, no in zip(inputs, ids, unsolved_B, strict=True) if each and no])
            )
        output |= self._rows(mix, mine) | self._padded(ids, device)
        output |= {"rollout_count": counts[0], "demonstration_count": counts[1]}
        output |= {"scales": torch.tensor([mix.rollout_scale, mix.demonstration_scale], device=device).repeat(own, 1)}
        taught_P = (mix.demonstration_weights_P > 0).double()
        rolled_N = (mix.rollout_weights_PG.reshape(-1) > 0).double()
        output |= {"taught": taught_P.sum(), "tokens": rolled_N @ rollout_lengths_N + taught_P @ lengths_N[::group]}
        self._metrics["train"]["hybrid/demonstration_share"].append(taught_P.mean().item())
        self._metrics["train"]["hybrid/without_demonstration"].append(1 - demonstrated_P.float().mean().item())
        self._metrics["train"]["hybrid/demonstration_scale"].append(mix.demonstration_scale)
        return output

    def _demonstration_rewards(self, inputs, ids) -> list[float]:
        """NaN where the demonstration cannot be scored; 0 where there is none, or nobody asks."""
        rewards = [0.0] * len(inputs)
        with_demonstration = [i for i, each in enumerate(ids) if each] if self.method.asks_demonstration_rewards else []
        texts = [self.encoder.text(ids[i]) for i in with_demonstration]
        for i, reward in zip(
            with_demonstration, self.score_answers([inputs[i] for i in with_demonstration], texts), strict=True
        ):
            rewards[i] = torch.nan if reward is None else reward
        return rewards

    def _groups(self, demonstrated_P, demonstration_rewards_P) -> Groups:
        rewards_PG = self.rewards_NF[:, 0].view(-1, self.num_generations)
        return Groups(
            rewards_PG=rewards_PG,
            correct_PG=rewards_PG >= self.method.spec.correct_at,  # NaN is not
            demonstrated_P=demonstrated_P,
            demonstration_rewards_P=demonstration_rewards_P,
        )

    def _counts(self, mix: Mix, rollout_lengths_N, demonstration_lengths_P) -> tuple[torch.Tensor, torch.Tensor]:
        """What the two branches are divided by, over all ranks (0-dimensional)."""
        rollouts, demonstrations = mix.rollout_weights_PG.reshape(-1).double(), mix.demonstration_weights_P.double()
        if self.method.rollout_length == "token":
            rollouts = rollouts * rollout_lengths_N
        if self.method.demonstration_length == "token":
            demonstrations = demonstrations * demonstration_lengths_P
        counts = rollouts.sum(), demonstrations.sum()
        fixed = mix.rollout_count, mix.demonstration_count
        counts = tuple(c if n is None else torch.full_like(c, n) for c, n in zip(counts, fixed, strict=True))
        if mix.together:
            counts = (counts[0] + counts[1],) * 2
        return counts[0].clamp(min=1e-12).float(), counts[1].clamp(min=1e-12).float()

    def _rows(self, mix: Mix, mine: slice) -> dict[str, torch.Tensor]:
        """This rank's rows: the weights and advantages of rollouts, and of demonstrations at the first of each group."""

        def at_the_first(values_P):
            values_PG = values_P.new_zeros(len(values_P), self.num_generations)
            values_PG[:, 0] = values_P
            return values_PG.reshape(-1)[mine].float()

        return {
            "advantages": mix.advantages_PG.reshape(-1)[mine].float(),
            "rollout_weights": mix.rollout_weights_PG.reshape(-1)[mine].float(),
            "demonstration_weights": at_the_first(mix.demonstration_weights_P),
            "demonstration_advantages": at_the_first(mix.demonstration_advantages_P),
        }

    def _padded(self, ids: list[list[int]], device) -> dict[str, torch.Tensor]:
        width = max(1, *map(len, ids))
        pad = self._tokenizer.pad_token_id
        return {
            "demonstration_ids": torch.tensor(
                [each + [pad] * (width - len(each)) for each in ids], device=device
            ).long(),
            "demonstration_mask": torch.tensor(
                [[1] * len(each) + [0] * (width - len(each)) for each in ids], device=device
            ).long(),
        }

    # -- unsolved prompts, where the method keeps them ----------------------------------------------------------------------

    def unsolved(self, entries: list[dict]) -> list[bool]:
        """Whether none of a new group of rollouts of the present policy solves each."""
        group = self.num_generations
        prompts = [entry["prompt"] for entry in entries for _ in range(group)]
        with uncounted(self):
            completion_ids = self._generate(prompts)[1]
        texts = [self.encoder.text(ids) for ids in completion_ids]
        finished = [bool(ids) and ids[-1] in self.encoder.ends for ids in completion_ids]
        rewards = self.score_answers([entry for entry in entries for _ in range(group)], texts, finished)
        right = [reward is not None and reward >= self.method.spec.correct_at for reward in rewards]
        return [not any(right[first : first + group]) for first in range(0, len(right), group)]

    def imitation(self, entries: list[dict], weights: list[float]):
        """The loss of the demonstrations of these rows, each by its weight: the sum over tokens, to be divided by their
        number; and what the model takes of them. Counts them as trained."""
        device, pad = self.accelerator.device, self._tokenizer.pad_token_id
        prompts = [torch.tensor(ids) for ids in self._tokenize_prompts([entry["prompt"] for entry in entries])[0]]
        taught = self._padded([entry["demonstration_ids"] for entry in entries], device)
        prompt_ids = padded(prompts, padding_value=pad, padding_side="left").to(device)
        prompt_mask = padded([torch.ones_like(ids) for ids in prompts], padding_value=0, padding_side="left").to(device)
        mask, weights_B = taught["demonstration_mask"], torch.tensor(weights, device=device)
        with self.sft_head.at_one():
            logps, entropies, _ = self._scores(
                self.model_wrapped, prompt_ids, prompt_mask, taught["demonstration_ids"], mask
            )
        self.count_rows(prompt_mask, mask * (weights_B > 0)[:, None])
        nll_BT = surrogate(METHODS["sft"], logps, torch.ones_like(logps[:, :1]), mask)
        loss = ((nll_BT - self.entropy_coef * entropies * mask).sum(1) * weights_B).sum()
        sequence = torch.cat([prompt_ids, taught["demonstration_ids"]], dim=1), torch.cat([prompt_mask, mask], dim=1)
        return loss, dict(zip(OF_A_MODEL, sequence, strict=False))

    # -- the loss ------------------------------------------------------------------------------------------------------------

    def count_inputs(self, inputs) -> None:
        for kind in ("rollout", "demonstration"):
            mask = inputs["completion_mask" if kind == "rollout" else "demonstration_mask"]
            self.count_rows(inputs["prompt_mask"], mask * (inputs[f"{kind}_weights"] > 0)[:, None])

    def _compute_loss(self, model, inputs):
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        logps, entropies, auxiliary = self._scores(model, *(inputs[name] for name in names))
        trained_mask = inputs["completion_mask"] * (inputs["rollout_weights"] > 0)[:, None]
        entropy = (entropies * trained_mask).sum()
        rollout_loss = self._rollout_loss(inputs, logps, entropies)
        demonstration_loss = torch.zeros_like(rollout_loss)
        if inputs["taught"] > 0:  # on any rank: all take the same passes
            demonstration_loss, more = self._demonstration_loss(model, inputs)
            entropy = entropy + more
        scales = inputs["scales"][0]
        parts = scales[0] * rollout_loss, scales[1] * demonstration_loss
        self._compare_gradients(*parts)
        loss = sum(parts)
        if self.entropy_coef:
            loss = loss - self.entropy_coef * entropy / self._share(inputs["tokens"].clamp(min=1)).float()
        if self.beta != 0.0:
            loss = loss + self.beta * self._kl(logps, inputs)
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * auxiliary / self.current_gradient_accumulation_steps
        self._tell(rollout_loss, demonstration_loss, entropies, inputs["completion_mask"])
        return loss

    def _scores(self, model, prompt_ids, prompt_mask, completion_ids, completion_mask):
        """Log-probabilities and entropies of the completions' tokens, and the routers' loss: one forward pass."""
        return self._get_per_token_logps_and_entropies(
            model,
            torch.cat([prompt_ids, completion_ids], dim=1),
            torch.cat([prompt_mask, completion_mask], dim=1),
            completion_ids.shape[1],
            compute_entropy=True,
            compute_aux_loss=self.aux_loss_enabled,
        )

    def _rollout_loss(self, inputs, logps_BT, entropies_BT):
        mask_BT = inputs["completion_mask"]
        advantages_B1, old_BT = inputs["advantages"][:, None], inputs.get("old_per_token_logps")
        bounds = Bounds(low=self.epsilon_low, high=self.epsilon_high)
        loss_BT = self.method.rollout_loss(logps_BT, entropies_BT, advantages_B1, mask_BT, old_BT, bounds)
        if self.use_vllm and self.vllm_importance_sampling_correction:
            loss_BT = loss_BT * inputs["importance_sampling_ratio"]
        summed = self._branch(loss_BT, mask_BT, inputs["rollout_weights"], self.method.rollout_length)
        return summed / self._share(inputs["rollout_count"])

    def _demonstration_loss(self, model, inputs):
        """The loss of this micro-batch's demonstrations and the sum of their tokens' entropies."""
        rows = inputs["demonstration_weights"].nonzero()[:, 0]
        if not len(rows):
            return self._no_demonstration(model, inputs)
        weights_D, advantages_D1 = inputs["demonstration_weights"][rows], inputs["demonstration_advantages"][rows, None]
        mask_DT = inputs["demonstration_mask"][rows]
        width = int(mask_DT.sum(1).max())
        mask_DT, ids_DT = mask_DT[:, :width], inputs["demonstration_ids"][rows, :width]
        prompts = inputs["prompt_ids"][rows], inputs["prompt_mask"][rows]
        with self.sft_head.at_one():
            logps_DT, entropies_DT, _ = self._scores(model, *prompts, ids_DT, mask_DT)
        loss_DT = self.method.demonstration_loss(logps_DT, entropies_DT, advantages_D1, mask_DT)
        summed = self._branch(loss_DT, mask_DT, weights_D, self.method.demonstration_length)
        return summed / self._share(inputs["demonstration_count"]), (entropies_DT * mask_DT).sum()

    def _no_demonstration(self, model, inputs):
        """Zeros. Processes that share weights must pass through the model together: then two tokens, for nothing, go too."""
        none = torch.zeros((), device=self.accelerator.device)
        if self.accelerator.num_processes == 1:
            return none, none
        ids, mask = inputs["prompt_ids"][:1, -1:], inputs["prompt_mask"][:1, -1:]
        logps, _, _ = self._scores(model, ids, mask, ids, mask)
        return none * logps.sum(), none

    def _branch(self, loss_BT, mask_BT, weights_B, length: str):
        """The sum over rows, each by its weight and divided as `length` says."""
        divisor_B = mask_BT.sum(1).clamp(min=1) if length == "sequence" else 1
        if length == "constant":
            divisor_B = self.max_completion_length
        return ((loss_BT * mask_BT).sum(1) / divisor_B * weights_B).sum()

    def _share(self, count):
        """A count of the whole generation as this rank's micro-batch must divide by: gradients are a mean over ranks, and
        a sum over the micro-batches of a step."""
        a_step = self.current_gradient_accumulation_steps / self.args.steps_per_generation
        return count * a_step / self.accelerator.num_processes

    def _kl(self, logps_BT, inputs):
        """The mean over tokens of k3 to the reference, as TRL has it."""
        difference = inputs["ref_per_token_logps"] - logps_BT
        kl_BT = (torch.exp(difference) - difference - 1) * inputs["completion_mask"]
        kl = kl_BT.sum() / self._share(inputs["num_items_in_batch"].clamp(min=1))
        self._metrics["train"]["kl"].append(self._over_a_step(kl)[0])
        return kl

    def _tell(self, rollout_loss, demonstration_loss, entropies_BT, mask_BT) -> None:
        """Log both branches' losses (before their scales) and the rollouts' entropy."""
        losses = self._over_a_step(rollout_loss, demonstration_loss)
        self._metrics["train"]["hybrid/rollout_loss"].append(losses[0])
        self._metrics["train"]["hybrid/demonstration_loss"].append(losses[1])
        entropy = torch.stack([(entropies_BT.detach() * mask_BT).sum(), mask_BT.sum().float()])
        total, tokens = self.accelerator.reduce(entropy, reduction="sum").tolist()
        self._metrics["train"]["entropy"].append(total / max(1.0, tokens))

    def _compare_gradients(self, *parts) -> None:
        """Log the norm of each branch's gradient at the weights of the last norm: all that the layers below are told of a
        loss comes through there, and asking costs the head's backward pass alone. Not of adapters or sharded weights."""
        if self.last_norm is None or not self.last_norm.numel():
            return
        gradients = [
            torch.autograd.grad(part, self.last_norm, retain_graph=True, allow_unused=True)[0]
            if part.requires_grad
            else torch.zeros_like(self.last_norm)  # no demonstration
            for part in parts
        ]
        if any(each is None for each in gradients):  # FSDP2 computes with another tensor
            self.last_norm = None
            return
        gradients = torch.stack(gradients)
        self.branch_gradients = gradients if self.branch_gradients is None else self.branch_gradients + gradients
        if self.accelerator.sync_gradients:
            norms = self.accelerator.reduce(self.branch_gradients, reduction="mean").float().norm(dim=1).tolist()
            self._metrics["train"]["hybrid/rollout_grad_norm"].append(norms[0])
            self._metrics["train"]["hybrid/demonstration_grad_norm"].append(norms[1])
            self.branch_gradients = None

    def _over_a_step(self, *shares) -> list[float]:
        """Micro-batches' shares of a loss, so that the mean which TRL logs is the loss of the step."""
        local = torch.stack([share.detach() for share in shares]) * self.current_gradient_accumulation_steps
        return self.accelerator.reduce(local, reduction="mean").tolist()


def last_norm(model) -> torch.nn.Parameter | None:
    """The trained weights of the normalisation before the head; None where there are none."""
    norms = [
        each for name, each in model.named_parameters() if each.dim() == 1 and "norm" in name and "layers." not in name
    ]
    return norms[-1] if norms and norms[-1].requires_grad else None


# -- demonstrations ----------------------------------------------------------------------------------------------------------


def with_demonstrations(stage: Stage, services: Services, rows, encoder: Encoder):
    """The rows with `demonstration_ids` (none: empty): the tokens after the prompt, the end of the answer included.

    Raises:
        UserError: no row has one.
    """
    unpacked = unpack(rows["prompt"], rows["row"])
    demonstrated = [(i, row, demonstration_of(row)) for i, row in enumerate(unpacked)]
    demonstrated = [(i, row, text) for i, row, text in demonstrated if text is not None]
    if not demonstrated:
        raise UserError(f"{stage.key}: no row of {stage.task.name} has a demonstration: use a rlvr stage")
    ids: list[list[int]] = [[] for _ in unpacked]
    all_taught = encoder.taught([lesson(row, text) for _, row, text in demonstrated])
    for (i, *_), taught in zip(demonstrated, all_taught, strict=True):
        ids[i] = taught.ids[taught.start :]
    lacking = len(unpacked) - len(demonstrated)
    if lacking:
        services.notes.append(f"{lacking} of {len(unpacked)} rows without a demonstration")
    return rows.add_column("demonstration_ids", ids)


def run(stage: Stage, services: Services, rows, strategies) -> StageRecord:
    """From `stage.source` to `stage.target`; returns the stage's record. Raises UserError, Interrupted, StaleWeights."""

    def score(inputs: list[dict], texts: list[str], finished: list[bool] | None = None) -> list[float | None]:
        asked = unpack([x["prompt"] for x in inputs], [x["row"] for x in inputs])
        return services.score(texts, asked, finished or [True] * len(texts))

    method = HYBRIDS[stage.spec.method](stage.spec)
    rows = with_demonstrations(stage, services, rows, encoder_of(stage))
    buffer = UnsolvedBuffer(stage) if method.keeps_unsolved else None
    config = make_config(stage.recipe, stage.spec, stage.key, stage.work, stage.seed)
    trainer = make_trainer(
        stage, services, rows, config, (), HybridStageTrainer, method=method, score=score, buffer=buffer
    )
    if buffer is not None:
        buffer.attach(trainer, stage)
    return train(stage, services, trainer, strategies)
