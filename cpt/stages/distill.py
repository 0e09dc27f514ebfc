"""On-policy distillation from a teacher (GKD, 2306.13649): TRL's DistillationTrainer on the run's own rollout engine.

The student answers; on its answers it learns the teacher's distribution over each next token. That is GKD with all data the
student's own (lambda 1), one answer a prompt. No reward is asked. Ours are the answers (`rollouts`) and the rows' order.
"""

from trl import DistillationTrainer
from trl.trainer import distillation_trainer

from cpt import models
from cpt.context import Services, Stage
from cpt.data.encoding import Encoder, encoder_of
from cpt.stages import teacher
from cpt.stages.alarms import Alarms
from cpt.stages.configs import make_config
from cpt.stages.counting import CountsAtLoss
from cpt.stages.generation import OrderOfEpoch, engine_answers, generating_with, sampling_of
from cpt.stages.trainer import build, load_policy, train


class DistillStageTrainer(CountsAtLoss, DistillationTrainer):
    """DistillationTrainer whose answers come from the run's engine, synced to the policy before every generation."""

    def __init__(self, *args, engine, encoder: Encoder, **kwargs):
        self.engine, self.encoder, self.stops = engine, encoder, encoder.stops
        with generating_with(engine, self.stops, distillation_trainer, self._heard):
            super().__init__(*args, **kwargs)

    def _heard(self, found: dict[str, float]) -> None:
        for name, value in found.items():
            self._metrics["train"][f"rollouts/{name}"].append(value)

    def _tokenize_prompts(self, prompts):
        return self.encoder.packed(prompts), None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, has_tool_images=False):
        if self.use_vllm:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, has_tool_images)
        return engine_answers(self, prompt_ids, sampling_of(self, self.stops, self.args.generation_kwargs or {}))

    def _get_train_sampler(self, dataset=None):
        return OrderOfEpoch(super()._get_train_sampler(dataset), self.args.seed, lambda: int(self.state.epoch or 0))

    def is_exact(self) -> bool:
        """Whether this is a place between two generations: rollouts and their counter are not in checkpoints."""
        return self._step % self.args.gradient_accumulation_steps == 0


def load_teacher(stage: Stage):
    """The teacher's weights, an adapter merged into its base; not to be trained."""
    recipe = teacher.as_model(stage.recipe, stage.spec)
    folder = teacher.folder_of(stage.recipe, stage.spec, stage.base, stage.key)
    with teacher.of_the_teacher(stage.key):
        if models.is_adapter(folder):
            from peft import AutoPeftModelForCausalLM

            with models.loading("teacher's adapter", folder):
                models.check_start(folder)
                model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=recipe.model.dtype).merge_and_unload()
        else:
            model = models.load_full(folder, recipe)
    return model.requires_grad_(False).eval()


def run(stage: Stage, services: Services, rows, strategies) -> dict:
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
