"""Reinforcement learning from verifiable rewards: TRL's GRPOTrainer (2402.03300) on the run's own rollout engine."""

from contextlib import nullcontext
from functools import partial

import torch
from torch.utils.data import Sampler
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from cpt import ranks
from cpt.context import Services, Stage
from cpt.data.encoding import Encoder, encoder_of
from cpt.data.rows import unpack
from cpt.stages.alarms import GROUPS, Alarms
from cpt.stages.configs import make_config
from cpt.stages.counting import CountsAtLoss
from cpt.stages.generation import OrderOfEpoch, engine_answers, generating_with, sampling_of
from cpt.stages.rl.baselines import OwnBaseline, logps_of
from cpt.stages.rl.dynamic_sampling import Resampling
from cpt.stages.rl.filtering import Opening, filtered
from cpt.stages.rl.kl_from_start import NAME as DRIFT
from cpt.stages.rl.kl_from_start import Drift
from cpt.stages.rl.overlong import overlong_reward
from cpt.stages.rl.snr import SnrStep, WholeGroups
from cpt.stages.rl.ttrl import Vote, without_answers
from cpt.stages.trainer import build, load_policy, set_reference_adapter, train


class RlvrStageTrainer(CountsAtLoss, GRPOTrainer):
    """GRPOTrainer whose rollouts come from the run's engine, synced to the policy before every generation.

    An engine that is the policy itself (transformers) generates here; one that is a copy (vLLM) goes through TRL's own
    way to vLLM, with its correction for the sampler's mismatch. `encoder` is the task's. `opening` has rollouts of the
    stage's start for the first rows, which are then not generated again; `drift` follows how far it goes.
    `rollout_policy` is opened around rollouts: a strategy's, under which other weights than the policy's may answer. They
    are then the old policy of the importance ratio.
    """

    def __init__(
        self,
        *args,
        engine,
        encoder: Encoder,
        drift: Drift | None = None,
        opening: Opening | None = None,
        **kwargs,
    ):
        self.engine, self.drift, self.encoder, self.stops = engine, drift, encoder, encoder.stops
        self.opening, self.given = opening, None
        self.rollout_policy = partial(nullcontext, False)
        with generating_with(engine, self.stops, grpo_trainer, self._heard):
            super().__init__(*args, **kwargs)
        self.eos_token_ids = list(
            dict.fromkeys([*self.eos_token_ids, *self.stops])
        )  # TRL asks which answers were cut off

    def _heard(self, found: dict[str, float]) -> None:
        for name, value in found.items():
            self._metrics["train"][f"rollouts/{name}"].append(value)

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
            sampling = sampling_of(self, self.stops, self.args.generation_kwargs or {})
            return engine_answers(self, prompt_ids, sampling), None

    def _generate_and_score_completions(self, inputs):
        if self.opening is not None and self.state.global_step == 0:
            self.given = self.opening.of(inputs, self.accelerator.process_index * len(inputs))
        with self.rollout_policy() as is_another:
            output = super()._generate_and_score_completions(inputs)
            if is_another:
                output["old_per_token_logps"] = logps_of(self, output)
        self.opening = self.given = None
        if self.drift is not None and not is_another:
            self.drift.begin(self, output)
        return output

    def log(self, logs, start_time=None):
        if (
            self.drift is not None
            and self.model.training
            and "train_runtime" not in logs
            and self.drift.due(self.state)
        ):
            drift = self.drift.kl(self)
            logs = logs if drift is None else logs | {DRIFT: drift}
        super().log(logs, start_time)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """TRL's, but what the task's reward (the first) cannot score has no reward at all, whatever the others say."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        rewards[rewards[:, 0].isnan()] = torch.nan
        alike_P = is_alike(
            (rewards * self.reward_weights.to(rewards.device)).nansum(1), rewards[:, 0].isnan(), self.num_generations
        )
        self._metrics["train"][GROUPS].append(alike_P.float().mean().item())
        return rewards

    def _get_train_sampler(self, dataset=None) -> Sampler:
        opening = len(self.opening.rollouts) if self.opening is not None else 0
        sampler = super()._get_train_sampler(dataset)
        return OrderOfEpoch(sampler, self.args.seed, lambda: int(self.state.epoch or 0), opening)

    def is_exact(self) -> bool:
        """Whether this is a place between two generations: rollouts and their counter are not in checkpoints.

        Looked at, not counted from the steps: the last step of an epoch may be shorter than the others.
        """
        return self._step % (self.args.steps_per_generation * self.num_iterations) == 0


def is_alike(rewards_N: torch.Tensor, unscorable_N: torch.Tensor, group: int) -> torch.Tensor:
    """Which groups (P,) have answers of one reward, unscorable ones left out: their advantages are all 0."""
    largest_P = rewards_N.masked_fill(unscorable_N, -torch.inf).view(-1, group).amax(1)
    smallest_P = rewards_N.masked_fill(unscorable_N, torch.inf).view(-1, group).amin(1)
    return largest_P - smallest_P <= 1e-6  # of a group without any it is -inf


def trainer_of(stage: Stage) -> tuple[type[RlvrStageTrainer], dict]:
    """RlvrStageTrainer with what the stage asks for besides, and the options of that."""
    spec, parts, options = stage.spec, [], {}
    if spec.snr_step is not None:
        parts += [SnrStep, WholeGroups]
        options |= {"snr_step": spec.snr_step, "key": stage.key}
    if spec.advantage is not None:
        parts.append(OwnBaseline)
        options["advantage"] = spec.advantage
    if spec.dynamic_sampling is not None:
        parts.append(Resampling)
        options["rounds"] = spec.dynamic_sampling.rounds
    return type("RlvrStageTrainer", (*parts, RlvrStageTrainer), {}), options


def reward_function(stage: Stage, services: Services, encoder: Encoder, group: int):
    """TRL's form of the task's reward, by majorities with `ttrl`. Unscorable completions give None, and are counted."""
    vote = None if getattr(stage.spec, "ttrl", None) is None else Vote(stage, services, group)

    def reward(prompts, completion_ids, row, log_metric, **_):
        rows = unpack(prompts, row)
        finished = [bool(ids) and ids[-1] in encoder.ends for ids in completion_ids]
        texts = [encoder.text(ids) for ids in completion_ids]
        values = (services.score if vote is None else vote.score)(texts, rows, finished)
        for name, value in ({} if vote is None else vote.found).items():
            log_metric(name, value)
        log_metric("unscorable", sum(value is None for value in values) / len(values))
        return values

    return reward


def run(stage: Stage, services: Services, rows, strategies) -> dict:
    """From `stage.source` to `stage.target`; returns the stage's record. Raises UserError, Interrupted, StaleWeights."""
    config = make_config(stage.recipe, stage.spec, stage.key, stage.work, stage.seed)
    rows = rows if stage.spec.ttrl is None else without_answers(rows)
    spent, found, penalties, opening = None, {}, [], None
    if stage.spec.filter is not None:
        rows, opening, spent, found["filter"] = filtered(stage, services, rows, config)
    if stage.spec.overlong is not None:
        penalties.append(overlong_reward(config.max_completion_length, stage.spec.overlong.buffer))
    trainer_class, options = trainer_of(stage)
    trainer = make_trainer(stage, services, rows, config, penalties, trainer_class, opening=opening, **options)
    return train(stage, services, trainer, strategies, spent) | found


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
        drift=Drift(stage.work / f"drift-{ranks.state().process_index}.safetensors"),
        encoder=encoder,
        **options,
    )
    set_reference_adapter(trainer, stage)
    trainer.add_callback(Alarms(stage, services))
    return trainer
