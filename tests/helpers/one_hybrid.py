"""Real steps of the hybrid trainer on given answers, rewards and demonstrations; and what they should be, worked out with
plain forward passes of the model (one row at a time, no code of the trainer's)."""

from types import SimpleNamespace

import torch
from datasets import Dataset
from peft import get_peft_model
from trl import GRPOConfig

from cpt import models, tiny
from cpt.data import encoding
from cpt.data.rows import packed
from cpt.recipe import load
from cpt.recipe.stages import Hybrid
from cpt.stages.hybrid.buffer import UnsolvedBuffer
from cpt.stages.hybrid.methods import HYBRIDS
from cpt.stages.hybrid.trainer import HybridStageTrainer
from helpers import one_step

PROMPTS = ["reverseabcde=", "sortbca="]
DEMONSTRATIONS = ["edcba", "abc"]
GROUP = 4
LIMIT = 8  # max_completion_length


def tokenizer():
    return models.load_tokenizer(tiny.path(), load("quickstart"))


def ids_of(text: str, end: bool = True) -> list[int]:
    known = tokenizer()
    return known(text)["input_ids"] + [known.eos_token_id] * end


def answers() -> list[list[int]]:
    """Two groups of answers of 2 to 5 tokens."""
    return one_step.answers(tokenizer())


def trainer(
    folder, method: str, rewards: list[list], demonstrations=DEMONSTRATIONS, prompts=PROMPTS, given=None, **args
):
    """A trainer with `rewards[i]` for the answers of generation i (the last one from then on). `args` are GRPOConfig's,
    `options` the stage's, `adapter` PEFT's config. `losses` holds the loss of each micro-batch."""
    options, adapter = args.pop("options", {}), args.pop("adapter", None)
    turns = iter([*rewards[:-1]])

    class Looking(HybridStageTrainer):
        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            self.losses.append(loss.item())
            return loss

    def reward(prompts, **_):
        return next(turns, rewards[-1])

    def score(inputs, texts, finished=None):
        return [1.0 if text in DEMONSTRATIONS else 0.0 for text in texts]

    common = {
        "per_device_train_batch_size": 8,
        "num_generations": GROUP,
        "max_completion_length": LIMIT,
        "max_steps": 1,
    }
    common |= {"bf16": False, "gradient_checkpointing": False, "use_cpu": True, "report_to": "none", "beta": 0.0}
    common |= {"learning_rate": 1.0, "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True}
    common |= {"optim": "sgd", "max_grad_norm": 1e9, "temperature": 1.0, "logging_steps": 1, "shuffle_dataset": False}
    stage = Hybrid(kind="hybrid", method=method, args={"num_generations": GROUP}, **options)
    settings = load("quickstart")
    ids = [[] if text is None else ids_of(text) for text in demonstrations]
    rows = [packed({"prompt": p, "id": i}) | {"demonstration_ids": ids[i]} for i, p in enumerate(prompts)]
    encoder = encoding.load(tiny.path(), tiny.path(), settings).of(settings.stream[0])
    chosen = HYBRIDS[method](stage)
    buffer = UnsolvedBuffer(SimpleNamespace(spec=stage, key="stage")) if chosen.keeps_unsolved else None
    policy = models.load_policy(tiny.path(), tiny.path(), settings, trainable=True, seed=0)
    made = Looking(
        model=policy if adapter is None else get_peft_model(policy, adapter),
        reward_funcs=[reward],
        args=GRPOConfig(output_dir=str(folder), **common | args),
        train_dataset=Dataset.from_list(rows),
        processing_class=encoder.tokenizer,
        engine=one_step.GivenAnswers(given or answers()),
        encoder=encoder,
        method=chosen,
        score=score,
        buffer=buffer,
    )
    if buffer is not None:
        buffer.attach(made, SimpleNamespace(key="stage"))
    made.losses = []
    return made


class Expected:
    """Log-probabilities and entropies of the starting policy, with gradients; lengths."""

    def __init__(self):
        self.policy = models.load_policy(tiny.path(), tiny.path(), load("quickstart"), trainable=True, seed=0)

    def row(self, prompt: str, answer: list[int], temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(logps (T,), entropies (T,)) of the answer's tokens."""
        start = ids_of(prompt, end=False)
        logits = self.policy(torch.tensor([start + answer])).logits[0, len(start) - 1 : -1] / temperature
        logp_TV = logits.log_softmax(-1)
        taken = logp_TV.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        return taken, -(logp_TV.exp() * logp_TV).sum(-1)

    def rollouts(self, temperature: float = 1.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [self.row(PROMPTS[i // GROUP], each, temperature) for i, each in enumerate(answers())]

    def demonstrations(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """At temperature 1, whatever the rollouts' is."""
        return [self.row(prompt, ids_of(text), 1.0) for prompt, text in zip(PROMPTS, DEMONSTRATIONS, strict=True)]

    def step(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        """By how much plain gradient descent with a rate of 1 changes each weight."""
        named = dict(self.policy.named_parameters())
        return {n: -g for n, g in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True)}


def change_of(made) -> dict[str, torch.Tensor]:
    """By how much each weight changed in training."""
    before = {name: value.detach().clone() for name, value in made.model.named_parameters()}
    made.train()
    return {name: value.detach() - before[name] for name, value in made.model.named_parameters()}


def tokens_of(rollouts: list[int], demonstrations: list[int]) -> int:
    """Prompt and answer tokens of these rollouts and demonstrations, by their places."""
    prompts = [len(ids_of(prompt, end=False)) for prompt in PROMPTS]
    return sum(prompts[i // GROUP] + len(answers()[i]) for i in rollouts) + sum(
        prompts[i] + len(ids_of(DEMONSTRATIONS[i])) for i in demonstrations
    )
