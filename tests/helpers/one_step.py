"""One real step of the rlvr trainer on given answers and rewards, so that what reaches the loss can be looked at."""

import torch
from datasets import Dataset
from trl import GRPOConfig

from cpt import models, tiny
from cpt.data import encoding
from cpt.data.rows import packed
from cpt.recipe import load
from cpt.rollouts.base import Completion
from cpt.stages.rlvr import RlvrStageTrainer

PROMPTS = ["reverseabcde=", "reversebcdea="]


class GivenAnswers:
    """An engine that says the same answers again and again."""

    corrected, rollout_tokens = False, 0

    def __init__(self, answers: list[list[int]]):
        self.answers = answers

    def sync(self, model, tokenizer, tensors=None):
        return {}

    def generate(self, prompts, sampling, on_done=None):
        return [Completion(ids, finished=True) for ids in self.answers]


def trainer(folder, answers, rewards, options=None, **args):
    """A RlvrStageTrainer with `options` for two groups of four; `args` are GRPOConfig's. `seen` holds the inputs of
    each micro-batch's loss."""

    class Looking(RlvrStageTrainer):
        def _compute_loss(self, model, inputs):
            self.seen.append(inputs)
            return super()._compute_loss(model, inputs)

    def reward(prompts, **_):
        return rewards

    given = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 8, "max_steps": 1}
    given |= {"bf16": False, "gradient_checkpointing": False, "use_cpu": True, "report_to": "none", "beta": 0.0}
    given |= {"learning_rate": 1e-3, "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True}
    settings = load("quickstart")
    policy = models.load_policy(tiny.path(), tiny.path(), settings, trainable=True, seed=0)
    encoder = encoding.load(tiny.path(), tiny.path(), settings).of(settings.stream[0])
    rows = Dataset.from_list([packed({"prompt": prompt}) for prompt in PROMPTS])
    config = GRPOConfig(output_dir=str(folder), shuffle_dataset=False, logging_steps=1, **given | args)
    made = Looking(
        model=policy,
        reward_funcs=[reward],
        args=config,
        train_dataset=rows,
        processing_class=encoder.tokenizer,
        engine=GivenAnswers(answers),
        encoder=encoder,
        **options or {},
    )
    made.seen = []
    return made


def answers(tokenizer) -> list[list[int]]:
    """Two groups of answers of 1 to 4 tokens and an end."""
    spelt = [tokenizer(text)["input_ids"] for text in ("e", "ed", "edc", "edcb", "a", "ab", "abc", "abcd")]
    return [[*ids, tokenizer.eos_token_id] for ids in spelt]


def moved(made: RlvrStageTrainer, before: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By how much each weight has changed since `before` (a state dict)."""
    return {name: made.model.state_dict()[name] - value for name, value in before.items()}
