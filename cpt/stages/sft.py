"""Supervised fine-tuning on demonstrations or messages: TRL's SFTTrainer."""

from trl import SFTTrainer

from cpt import models
from cpt.stages.configs import make_config
from cpt.stages.context import StageContext
from cpt.stages.training import CountsTokens, build, load_policy, train, with_template_options


class SftStageTrainer(CountsTokens, SFTTrainer):
    """SFTTrainer that says how many tokens it has trained on."""


def run(ctx: StageContext, rows, strategies) -> dict:
    """From `ctx.source` to `ctx.target`; returns the stage's record. Raises UserError, Interrupted."""
    trainer = build(
        ctx,
        SftStageTrainer,
        model=load_policy(ctx),
        args=make_config(ctx.recipe, ctx.stage, ctx.key, ctx.work, ctx.seed),
        train_dataset=with_template_options(ctx, rows),
        processing_class=models.load_tokenizer(ctx.source, ctx.recipe),
    )
    return train(ctx, trainer, strategies)
