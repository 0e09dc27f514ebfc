"""On-policy distillation from a teacher (GKD, 2306.13649): TRL's DistillationTrainer on the run's own rollout engine.

The student answers; on its answers it learns the teacher's distribution over each next token. That is GKD with all data the
student's own (lambda 1), one answer a prompt. No reward is asked. Ours are the answers (`rollouts`) and the rows' order.
"""

from trl import DistillationTrainer
from trl.trainer import distillation_trainer

from cpt import models
from cpt.adapters import is_adapter
from cpt.context import Services, Stage
from cpt.data.encoding import encoder_of
from cpt.records import StageRecord
from cpt.stages import teacher
from cpt.stages.alarms import Alarms
from cpt.stages.configs import make_config
from cpt.stages.reference import load_policy
from cpt.stages.trainer import RolloutTrainer
from cpt.stages.training import build, train


class DistillStageTrainer(RolloutTrainer, DistillationTrainer):
    """DistillationTrainer on the run's own rollout engine."""

    generating = distillation_trainer

    def _tokenize_prompts(self, prompts):
        return self.encoder.packed(prompts), None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, has_tool_images=False):
        if self.use_vllm:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, has_tool_images)
        return self.answers_of_engine(prompt_ids)

    def micro_batches_a_generation(self) -> int:
        return self.args.gradient_accumulation_steps


def load_teacher(stage: Stage):
    """The teacher's weights, an adapter merged into its base; not to be trained."""
    recipe = teacher.as_model(stage.recipe, stage.spec)
    folder = teacher.folder_of(stage.recipe, stage.spec, stage.base, stage.key)
    with teacher.of_the_teacher(stage.key):
        if is_adapter(folder):
            from peft import AutoPeftModelForCausalLM

            with models.loading("teacher's adapter", folder):
                models.check_start(folder)
                model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=recipe.model.dtype).merge_and_unload()
        else:
            model = models.load_full(folder, recipe)
    return model.requires_grad_(False).eval()


def run(stage: Stage, services: Services, rows, strategies) -> StageRecord:
    """From `stage.source` to `stage.target`; returns the stage's record. Raises UserError, Interrupted, StaleWeights."""
    encoder = encoder_of(stage)
    trainer = build(
        stage,
        DistillStageTrainer,
        model=load_policy(stage),
        teacher_model=load_teacher(stage),
        args=make_config(stage.recipe, stage.spec, stage.key, stage.work, stage.seed),
        train_dataset=rows,
        processing_class=encoder.tokenizer,
        engine=services.engine,
        encoder=encoder,
    )
    trainer.add_callback(Alarms(stage, services))
    return train(stage, services, trainer, strategies)
