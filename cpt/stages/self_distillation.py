"""Self-distillation fine-tuning (SDFT, 2601.19897): TRL's SDFTTrainer on the run's own rollout engine.

The student answers the prompt; the teacher, a moving average of its weights, is asked the same with the demonstration in its
context, and its distribution over each next token of the student's answer is what the student learns. The paper writes the
reverse KL; its authors say that all its results come from the forward one, per token (issue 5 of their repository), so that
is the default. No reward is asked. Ours are the answers (`rollouts`), the order of the rows, the average (`stages.average`),
and the teacher's context, which is made before the stage so that every row of it can be checked.
"""

from accelerate.utils import is_peft_model, set_seed
from trl.distributed import DistributedBackend
from trl.experimental.sdft import SDFTTrainer
from trl.experimental.sdft.sdft_trainer import DemonstrationTeacherContextBuilder
from trl.generation import vllm_generation
from trl.trainer.utils import use_adapter

from cpt.context import Services, Stage
from cpt.data.encoding import encoder_of
from cpt.data.rows import in_context, pack, tools_of, unpack
from cpt.errors import UserError
from cpt.records import StageRecord
from cpt.sharding import is_sharded
from cpt.stages.average import ADAPTER, MovingAverage, add_average_adapter
from cpt.stages.configs import make_config
from cpt.stages.reference import load_policy
from cpt.stages.trainer import RolloutTrainer
from cpt.stages.training import build, train


class ReadyContext(DemonstrationTeacherContextBuilder):
    """The teacher is asked what the row's `privileged_context` holds: the whole prompt, the demonstration in it."""

    def _compose_teacher_prompt(self, prompt, privileged_context):
        return privileged_context


class SelfDistillationTrainer(RolloutTrainer, SDFTTrainer):
    """SDFTTrainer on the run's own rollout engine. `rate` and `every` are the teacher's (`MovingAverage`)."""

    generating = vllm_generation

    def __init__(self, *args, rate: float, every: int, **kwargs):
        self.rate, self.every = rate, every
        super().__init__(*args, **kwargs)
        self.teacher_context_builder = ReadyContext(self)
        self._dist = DistributedBackend(self.accelerator)
        set_seed(self.args.seed, device_specific=True)  # two ranks may hold answers to one prompt

    def _setup_teacher_model(self) -> None:
        super()._setup_teacher_model()
        if is_peft_model(self.model):
            policy, average = add_average_adapter(self.model)
        else:
            policy = dict(self.model.named_parameters())
            average = dict(self.accelerator.unwrap_model(self.teacher_model).named_parameters())
        self.add_callback(MovingAverage(policy, average, self.rate, self.every))

    def _get_teacher_context_for_self_distillation(self):
        if not is_peft_model(self.model):
            return super()._get_teacher_context_for_self_distillation()
        return use_adapter(self.accelerator.unwrap_model(self.teacher_model), adapter_name=ADAPTER)

    def _tokenize_prompts(self, prompts):
        return self.encoder.packed(prompts)

    def _generate_transformers(self, prompt_ids):
        return prompt_ids, self.answers_of_engine(prompt_ids)


def with_contexts(rows, template: str):
    """The rows with what the teacher is asked, where TRL looks for its part of it."""
    asked = [{"prompt": in_context(row, template)} | tools_of(row) for row in unpack(rows["prompt"], rows["row"])]
    return rows.add_column("privileged_context", [pack(each) for each in asked])


def run(stage: Stage, services: Services, rows, strategies) -> StageRecord:
    """From `stage.source` to `stage.target`; returns the stage's record. Raises UserError, Interrupted, StaleWeights."""
    encoder = encoder_of(stage)
    trainer = build(
        stage,
        SelfDistillationTrainer,
        model=load_policy(stage, stage.source),
        args=make_config(stage.recipe, stage.spec, stage.key, stage.work, stage.seed),
        train_dataset=with_contexts(rows, stage.spec.template),
        processing_class=encoder.tokenizer,
        engine=services.engine,
        encoder=encoder,
        rate=stage.spec.ema_rate,
        every=stage.spec.sync_every,
    )
    if is_sharded():
        raise UserError(
            f"{stage.key}: the teacher's average needs whole weights on each process, which DeepSpeed and FSDP do "
            "not keep"
        )
    return train(stage, services, trainer, strategies)
