"""Reinforcement learning from verifiable rewards: TRL's GRPOTrainer (2402.03300) on the run's own rollout engine.

What it can have besides (`stages.rl`) acts in three steps of a generation: draw (initial rollouts, dynamic sampling), score
(the task's reward, votes, an overlong penalty), advantage (another baseline); and in the size of the optimiser's step.
"""

import torch
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from cpt import ranks
from cpt.context import Services, Stage
from cpt.data.encoding import Encoder, encoder_of
from cpt.data.rows import unpack
from cpt.records import StageRecord
from cpt.stages.alarms import GROUPS, Alarms
from cpt.stages.configs import make_config
from cpt.stages.reference import load_policy, set_reference_adapter
from cpt.stages.rl.baselines import Baseline, logps_of
from cpt.stages.rl.dynamic_sampling import DynamicSampling
from cpt.stages.rl.filtering import InitialRollouts, filtered
from cpt.stages.rl.kl_from_start import NAME as KL_FROM_START
from cpt.stages.rl.kl_from_start import KlFromStart
from cpt.stages.rl.overlong import overlong_reward
from cpt.stages.rl.snr import SnrStep, check_whole, group_numbers, in_whole_groups
from cpt.stages.rl.ttrl import Vote, without_answers
from cpt.stages.trainer import RolloutTrainer
from cpt.stages.training import build, train


class RlvrStageTrainer(RolloutTrainer, GRPOTrainer):
    """GRPOTrainer on the run's own rollout engine.

    Draw: `initial` has rollouts of the stage's start for the first rows, which are then not generated again; `sampling`
    replaces groups without signal. Advantage: `baseline` replaces TRL's. `snr` scales the steps of the optimiser,
    and needs whole groups in each micro-batch. `kl_from_start` follows how far the policy goes. Under a strategy's
    `rollout_policy` other weights may answer; they are then the old policy of the importance ratio.
    """

    generating = grpo_trainer

    def __init__(
        self,
        *args,
        initial: InitialRollouts | None = None,
        sampling: DynamicSampling | None = None,
        baseline: Baseline | None = None,
        snr_step=None,
        kl_from_start: KlFromStart | None = None,
        **kwargs,
    ):
        self.initial, self.sampling, self.baseline, self.kl_from_start = initial, sampling, baseline, kl_from_start
        self.initial_rows = 0 if initial is None else len(initial.rollouts)
        self.given: list | None = None  # rollouts that are not generated: token ids and logprobs of each
        super().__init__(*args, **kwargs)
        self.eos_token_ids = list(
            dict.fromkeys([*self.eos_token_ids, *self.stops])
        )  # TRL asks which answers were cut off
        self.snr = None if snr_step is None else SnrStep(self, snr_step)

    # -- draw --------------------------------------------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts):
        return self.encoder.packed(prompts), None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        if self.given is not None:
            return [each.ids for each in self.given], [each.logprobs for each in self.given] if self.use_vllm else None
        with self.rollout_policy():
            if self.use_vllm:
                return super()._generate_single_turn(
                    prompt_ids, images, multimodal_fields, num_generations, has_tool_images
                )
            return self.answers_of_engine(prompt_ids), None

    def _generate_and_score_completions(self, inputs):
        if self.sampling is not None:
            self.sampling.draw(self, inputs)
            self.given = self.sampling.rollouts()
        elif self.initial is not None and self.state.global_step == 0:
            self.given = self.initial.of(inputs, self.accelerator.process_index * len(inputs))
        with self.rollout_policy() as is_another:
            output = super()._generate_and_score_completions(inputs)
            if is_another:
                output["old_per_token_logps"] = logps_of(self, output)
        self.initial = self.given = None
        if self.sampling is not None:
            self.sampling.drawn = None
        if self.kl_from_start is not None and not is_another:
            self.kl_from_start.begin(self, output)
        if self.baseline is not None:
            self.baseline.replace_advantages(self, output)
        if self.snr is not None:
            output["group"] = group_numbers(self, output)
        return output

    # -- score -------------------------------------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """TRL's (N, functions), but what the task's reward (the first) cannot score has no reward at all, whatever the
        others say."""
        if self.sampling is not None and self.sampling.drawn is not None:
            self.rewards_NF = self.sampling.rewards()
            return self.rewards_NF
        rewards_NF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        rewards_NF[rewards_NF[:, 0].isnan()] = torch.nan
        alike_P = is_alike(
            (rewards_NF * self.reward_weights.to(rewards_NF.device)).nansum(1),
            rewards_NF[:, 0].isnan(),
            self.num_generations,
        )
        self._metrics["train"][GROUPS].append(alike_P.float().mean().item())
        self.rewards_NF = rewards_NF
        return rewards_NF

    # -- the optimiser's step ----------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch):
        fresh = self.is_exact()
        inputs = super()._prepare_inputs(generation_batch)
        if self.snr is None or not fresh:
            return inputs
        self._buffered_inputs = in_whole_groups(self._buffered_inputs)
        return self._buffered_inputs[0]

    def gradients_are_whole(self) -> None:
        if self.snr is not None:
            self.snr.measure()

    def log(self, logs, start_time=None):
        measured = self.kl_from_start
        if measured is not None and self.model.training and "train_runtime" not in logs and measured.due(self.state):
            kl = measured.kl(self)
            logs = logs if kl is None else logs | {KL_FROM_START: kl}
        super().log(logs, start_time)


def is_alike(rewards_N: torch.Tensor, unscorable_N: torch.Tensor, group: int) -> torch.Tensor:
    """Which groups (P,) have answers of one reward, unscorable ones left out: their advantages are all 0."""
    largest_P = rewards_N.masked_fill(unscorable_N, -torch.inf).view(-1, group).amax(1)
    smallest_P = rewards_N.masked_fill(unscorable_N, torch.inf).view(-1, group).amin(1)
    return largest_P - smallest_P <= 1e-6  # of a group without any it is -inf


def reward_function(stage: Stage, services: Services, encoder: Encoder, group: int):
    """TRL's form of the task's reward, by majorities with `ttrl`. Unscorable completions give None, and are counted."""
    vote = None if stage.spec.ttrl is None else Vote(stage, services, group)

    def reward(prompts, completion_ids, row, log_metric, **_):
        rows = unpack(prompts, row)
        finished = [bool(ids) and ids[-1] in encoder.ends for ids in completion_ids]
        texts = [encoder.text(ids) for ids in completion_ids]
        values = (services.score if vote is None else vote.score)(texts, rows, finished)
        for name, value in ({} if vote is None else vote.measured).items():
            log_metric(name, value)
        log_metric("unscorable", sum(value is None for value in values) / len(values))
        return values

    return reward


def run(stage: Stage, services: Services, rows, strategies) -> StageRecord:
    """From `stage.source` to `stage.target`; returns the stage's record. Raises UserError, Interrupted, StaleWeights."""
    spec = stage.spec
    config = make_config(stage.recipe, spec, stage.key, stage.work, stage.seed)
    rows = rows if spec.ttrl is None else without_answers(rows)
    spent, record, penalties, initial = None, {}, [], None
    if spec.filter is not None:
        rows, initial, spent, record["filter"] = filtered(stage, services, rows, config)
    if spec.overlong is not None:
        penalties.append(overlong_reward(config.max_completion_length, spec.overlong.buffer))
    trainer = make_trainer(
        stage,
        services,
        rows,
        config,
        penalties,
        initial=initial,
        sampling=None if spec.dynamic_sampling is None else DynamicSampling(spec.dynamic_sampling.rounds),
        baseline=None if spec.advantage is None else Baseline(spec.advantage),
        snr_step=spec.snr_step,
    )
    if spec.snr_step is not None:
        check_whole(stage.key)
    return train(stage, services, trainer, strategies, spent) | record


def make_trainer(
    stage: Stage,
    services: Services,
    rows,
    config,
    penalties=(),
    trainer_class: type[RlvrStageTrainer] = RlvrStageTrainer,
    **options,
) -> RlvrStageTrainer:
    """The stage's trainer on its policy and rows; `options` go to the class. Raises UserError."""
    encoder = encoder_of(stage)
    policy = load_policy(stage, stage.reference)
    reward = reward_function(stage, services, encoder, config.num_generations)
    trainer = build(
        stage,
        trainer_class,
        model=policy,
        reward_funcs=[reward, *penalties],
        args=config,
        train_dataset=rows,
        processing_class=encoder.tokenizer,
        engine=services.engine,
        kl_from_start=KlFromStart(stage.work / f"drift-{ranks.state().process_index}.safetensors"),
        encoder=encoder,
        **options,
    )
    set_reference_adapter(trainer, stage)
    trainer.add_callback(Alarms(stage, services))
    return trainer
