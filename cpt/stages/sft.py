"""Supervised fine-tuning on demonstrations or conversations: TRL's SFTTrainer on token ids (`stages.examples`)."""

from collections.abc import Iterable

from trl import SFTTrainer

from cpt import models
from cpt.context import Services, Stage
from cpt.data.encoding import Encoder, encoder_of
from cpt.data.rows import sft_row, unpack
from cpt.records import StageRecord
from cpt.stages.configs import make_config
from cpt.stages.examples import sft_examples
from cpt.stages.reference import load_policy
from cpt.stages.trainer import StageTrainer
from cpt.stages.training import build, train


class SftStageTrainer(StageTrainer, SFTTrainer):
    """SFTTrainer with the seats of StageTrainer."""


def run(stage: Stage, services: Services, rows, strategies) -> StageRecord:
    """From `stage.source` to `stage.target`; returns the stage's record. Raises UserError, Interrupted."""
    encoder = encoder_of(stage)
    return train_on(
        stage, services, ((encoder, sft_row(row)) for row in unpack(rows["prompt"], rows["row"])), strategies
    )


def train_on(
    stage: Stage, services: Services, lessons: Iterable[tuple[Encoder, dict]], strategies, spent: dict | None = None
) -> StageRecord:
    """SFT on {prompt, completion} or {messages}, each with its task's encoder; `spent` as in `training.train`."""
    config = make_config(stage.recipe, stage.spec, stage.key, stage.work, stage.seed)
    examples = sft_examples(lessons, config, models.context_length(stage.base, stage.recipe), stage.key)
    config.assistant_only_loss = False  # the labels say it, and TRL would look for messages
    trainer = build(
        stage,
        SftStageTrainer,
        model=load_policy(stage),
        args=config,
        train_dataset=examples,
        processing_class=encoder_of(stage).tokenizer,
    )
    return train(stage, services, trainer, strategies, spent)
