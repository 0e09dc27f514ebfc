"""Reinforcement learning from verifiable rewards: TRL's GRPOTrainer (2402.03300) on the run's own rollout engine."""

import torch
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

from cpt import models
from cpt.data.rows import completion_text, unpack
from cpt.rollouts import Sampling
from cpt.stages.configs import make_config
from cpt.stages.context import StageContext
from cpt.stages.training import build, drop_reference_adapter, load_policy, train


class RlvrStageTrainer(GRPOTrainer):
    """GRPOTrainer whose rollouts come from the run's engine, synced to the policy before every generation."""

    def __init__(self, *args, engine, **kwargs):
        super().__init__(*args, **kwargs)
        self.engine = engine

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        sampling = Sampling(
            max_tokens=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            options=self.args.generation_kwargs or {},
        )
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as policy,
            torch.no_grad(),
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            self.engine.sync(policy, self._tokenizer)
            completions = self.engine.generate(prompt_ids, sampling)
        logprobs = None if completions[0].logprobs is None else [completion.logprobs for completion in completions]
        return [completion.token_ids for completion in completions], logprobs

    def train_tokens(self) -> int:
        return int(self.state.num_input_tokens_seen) * self.num_iterations

    def resume_tokens(self, count: int) -> None:
        """Nothing: the trainer's state, which is in the checkpoint, counts them."""


def reward_function(ctx: StageContext, stop_ids: set[int]):
    """TRL's form of the task's reward. Unscorable completions give None, and are counted in the log."""

    def reward(prompts, completions, completion_ids, row, log_metric, **_):
        rows = unpack(prompts, row)
        finished = [bool(ids) and ids[-1] in stop_ids for ids in completion_ids]
        values = ctx.score([completion_text(completion) for completion in completions], rows, finished)
        log_metric("unscorable", sum(value is None for value in values) / len(values))
        return values

    return reward


def run(ctx: StageContext, rows, strategies) -> dict:
    """From `ctx.source` to `ctx.target`; returns the stage's record. Raises UserError, Interrupted."""
    tokenizer = models.load_tokenizer(ctx.source, ctx.recipe)
    policy = load_policy(ctx, ctx.reference)
    trainer = build(
        ctx,
        RlvrStageTrainer,
        model=policy,
        reward_funcs=reward_function(ctx, set(models.stop_ids(policy, tokenizer))),
        args=make_config(ctx.recipe, ctx.stage, ctx.key, ctx.work, ctx.seed),
        train_dataset=rows,
        processing_class=tokenizer,
        engine=ctx.rollouts,
    )
    drop_reference_adapter(trainer, ctx)
    return train(ctx, trainer, strategies)
