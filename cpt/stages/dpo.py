"""Direct preference optimisation (2305.18290): TRL's DPOTrainer on given pairs, or on pairs made from the present model.

On-policy pairs: sample each prompt several times from the policy that the stage starts from, verify, and pair an answer
verified right with one verified wrong. They are written beside the stage's checkpoints, so that a resumed stage trains
on the same pairs.
"""

from collections.abc import Iterator

from datasets import Dataset
from trl import DPOTrainer
from trl.trainer import dpo_trainer

from cpt import models
from cpt.context import Services, Stage
from cpt.data.encoding import Encoder, encoder_of
from cpt.data.rows import dpo_row, unpack
from cpt.errors import UserError
from cpt.records import StageRecord
from cpt.stages.configs import make_config
from cpt.stages.examples import dpo_examples, teachable
from cpt.stages.reference import load_policy, set_reference_adapter
from cpt.stages.sampling import made_once, verified
from cpt.stages.trainer import StageTrainer
from cpt.stages.training import build, train

dpo_trainer.tqdm = lambda iterable, **_: iterable  # precompute_ref_log_probs would show a bar of its own


class DpoStageTrainer(StageTrainer, DPOTrainer):
    """DPOTrainer with the seats of StageTrainer. Its rows are token ids already."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        return dataset


def run(stage: Stage, services: Services, rows, strategies) -> StageRecord:
    """From `stage.source` to `stage.target`; returns the stage's record. Raises UserError, Interrupted."""
    config = make_config(stage.recipe, stage.spec, stage.key, stage.work, stage.seed)
    spent = None
    encoder = encoder_of(stage)
    pairs = [dpo_row(row) for row in unpack(rows["prompt"], rows["row"])]
    if "chosen" not in pairs[0]:
        pairs, spent = on_policy_pairs(stage, services, encoder, rows, config.max_length)
    trainer = build(
        stage,
        DpoStageTrainer,
        model=load_policy(stage, stage.reference),
        args=config,
        train_dataset=dpo_examples(
            ((encoder, pair) for pair in pairs), config, models.context_length(stage.base, stage.recipe), stage.key
        ),
        processing_class=encoder.tokenizer,
    )
    set_reference_adapter(trainer, stage)
    return train(stage, services, trainer, strategies, spent)


def on_policy_pairs(
    stage: Stage, services: Services, encoder: Encoder, rows: Dataset, max_length: int | None
) -> tuple[list[dict], dict]:
    """Pairs of `prompt`, `chosen`, `rejected` from the policy in `stage.source`, and what they cost.

    Raises:
        UserError: no prompt had both a right and a wrong answer.
    """
    pairs, spent = made_once(stage, services, "pairs", lambda: _sample_pairs(stage, services, rows, max_length))
    pairs = teachable(stage, services, encoder, pairs)
    if not pairs:
        raise UserError(
            f"{stage.key}: no prompt of {stage.task.name} got both a right and a wrong answer, so there is nothing to "
            "prefer: raise pairs.prompts, pairs.samples or pairs.temperature, or leave the stage out"
        )
    services.notes.append(f"{len(pairs)} on-policy pairs")
    return pairs, spent


def _sample_pairs(stage: Stage, services: Services, rows: Dataset, max_length: int | None) -> Iterator[dict]:
    """This rank's share of the pairs."""
    spec = stage.spec.pairs
    for row, right, wrong in verified(stage, services, rows, spec, stage.source, max_length, "pairs"):
        both = zip(dict.fromkeys(right), dict.fromkeys(wrong), strict=False)
        for chosen, rejected in list(both)[: spec.per_prompt]:
            yield dpo_row(row | {"chosen": chosen, "rejected": rejected})
