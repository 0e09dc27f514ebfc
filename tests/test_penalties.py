"""The seats of penalties, by one penalty of each space in every kind of stage.

One optimiser step of plain gradient descent (rate 1, no clipping), on given answers: what a penalty changes is then minus its
gradient, which is worked out here from its formula. It is the same for one micro-batch of four rows as for four of one.
"""

import pytest
import torch
from safetensors.torch import load_file

from cpt import models, tiny
from cpt.loop import points as loop
from cpt.loop import run
from cpt.penalties import Penalty
from cpt.recipe import load
from cpt.screen import QUIET, Screen
from cpt.strategies.base import Strategy
from helpers import given, one_hybrid
from helpers.recipes import recipe, write_recipe

KINDS = ("sft", "dpo", "rlvr", "hybrid", "rejection", "self-distillation", "distill")
PULL = 0.01


class Pull(Penalty):
    """Half the square of each weight less twice what it began as, times PULL: gradient PULL (w - 2 w_0)."""

    def begin(self, weights):
        self.start = {name: weight.detach().clone() for name, weight in weights.items()}

    def gradient(self, weights):
        return {name: PULL * (weight - 2 * self.start[name]) for name, weight in weights.items()}


class LastLogits(Penalty):
    """The mean over rows of the mean logit of the last token. Keeps the micro-batches that it was given."""

    def __init__(self):
        self.batches = []

    def loss(self, model, batch):
        self.batches.append({name: value.detach().clone() for name, value in batch.items()})
        return last_logits(model, batch)


def last_logits(model, batch) -> torch.Tensor:
    mask = batch["attention_mask"]
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return model(**batch).logits[torch.arange(len(mask)), last].mean()


class Penalised(Strategy):
    def __init__(self, penalty: Penalty):
        super().__init__(None, None, "0-test")
        self.penalty = penalty

    def penalties(self, stage, services):
        return [self.penalty]


def content(kind: str, micro_batches: int) -> dict:
    made = recipe(kind, tasks=("reverse",), evaluate=1) if kind != "hybrid" else recipe("rlvr", tasks=("reverse",))
    stage = made["stream"][0]["stages"][0]
    if kind == "hybrid":
        stage |= {"kind": "hybrid", "method": "luffy"}
    made["stream"][0]["data"] |= {"eval": 1, "demonstration": "terse"}
    stage["args"] = stage["args"] | {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9, "max_steps": 1}
    stage["args"] |= {"per_device_train_batch_size": 4 // micro_batches, "gradient_accumulation_steps": micro_batches}
    if kind == "rejection":
        stage |= {"rounds": 1, "samples": {"prompts": 16, "samples": 4}}
    return made


def weights_after(folder, monkeypatch, kind: str, micro_batches: int, penalty: Penalty | None) -> dict:
    """The policy's weights after the step."""
    given.answers(monkeypatch)
    strategies = [] if penalty is None else [Penalised(penalty)]
    monkeypatch.setattr(loop, "make_strategies", lambda recipe: strategies)
    file = write_recipe(folder / "recipe.yaml", content(kind, micro_batches))
    out = folder / f"{micro_batches}-{type(penalty).__name__}"
    run(load(file), out, Screen(QUIET))
    return load_file(out / "final" / "model.safetensors")


def changes(folder, monkeypatch, kind: str, micro_batches: int, penalty: Penalty) -> dict[str, torch.Tensor]:
    """What the penalty changes of each weight."""
    plain = weights_after(folder, monkeypatch, kind, micro_batches, None)
    penalised = weights_after(folder, monkeypatch, kind, micro_batches, penalty)
    return {name: penalised[name].double() - plain[name].double() for name in plain}


def assert_close(found: dict, wanted: dict) -> None:
    largest = max(each.abs().max().item() for each in wanted.values())
    assert largest > 1e-4, "the penalty has no effect"
    for name, change in wanted.items():
        torch.testing.assert_close(found[name].double(), change.double(), atol=2e-3 * largest, rtol=0)


@pytest.fixture(scope="module")
def start():
    return {name: each.detach() for name, each in base().named_parameters()}


def base():
    return models.load_full(tiny.path(), load("quickstart"))


@pytest.mark.parametrize("kind", KINDS)
def test_in_weight_space(kind, start, tmp_path, monkeypatch):
    """PULL (w_0 - 2 w_0) is the gradient at the start, once a step."""
    for micro_batches in (1, 4):
        found = changes(tmp_path, monkeypatch, kind, micro_batches, Pull())
        assert_close(found, {name: PULL * start[name] for name in found})


@pytest.mark.parametrize("kind", KINDS)
def test_in_function_space(kind, tmp_path, monkeypatch):
    """The gradient of the mean over the step's micro-batches, at the start."""
    wanted = []
    for micro_batches in (1, 4):
        penalty = LastLogits()
        found = changes(tmp_path, monkeypatch, kind, micro_batches, penalty)
        assert len(penalty.batches) == micro_batches
        model = base()
        (sum(last_logits(model, batch) for batch in penalty.batches) / micro_batches).backward()
        gradients = {name: -each.grad for name, each in model.named_parameters()}
        assert_close(found, {name: gradients[name] for name in found})
        wanted.append(gradients)
    assert_close(wanted[0], wanted[1])


@pytest.mark.parametrize("size", [8, 1])
def test_in_the_step_of_its_own_that_relift_takes(size, tmp_path):
    """Two demonstrations in micro-batches of `size`: the gradient that its optimiser takes, less that without a penalty."""

    def gradients(*penalties: Penalty) -> dict[str, torch.Tensor]:
        args = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size, "learning_rate": 0.0}
        made = one_hybrid.trainer(
            tmp_path, "relift", [[0.0] * 8], options={"buffer": 2, "sft_max_grad_norm": 1e9}, **args
        )
        made.begin_penalties(penalties, "here")
        taken = {}

        def keep(optimizer, *_):
            taken.update({name: each.grad.double() for name, each in made.trained_weights().items()})

        made.buffer._optimizer().register_step_pre_hook(keep)
        made.train()
        return taken

    plain, logits, model = gradients(), LastLogits(), base()
    pulled, bent = gradients(Pull()), gradients(logits)
    wanted = {name: -PULL * each.detach() for name, each in model.named_parameters()}
    assert_close({name: pulled[name] - plain[name] for name in plain}, {name: wanted[name] for name in plain})
    taught = logits.batches[-(2 // size or 1) :]
    (sum(last_logits(model, batch) for batch in taught) / len(taught)).backward()
    wanted = {name: each.grad for name, each in model.named_parameters()}
    assert_close({name: bent[name] - plain[name] for name in plain}, {name: wanted[name] for name in plain})
