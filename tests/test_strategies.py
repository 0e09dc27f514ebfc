"""Strategies in weight space: what they leave in a run, against sums written out; resume; two processes; mistakes."""

import json
import signal
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cpt.checks import plan
from cpt.recipe import load
from cpt.recipe.strategies import Lookahead as LookaheadSpec
from cpt.recipe.strategies import StochasticRestore as RestoreSpec
from cpt.strategies.lookahead import Lookahead
from cpt.strategies.stochastic_restore import StochasticRestore
from helpers.launchers import LAUNCHERS, launch
from helpers.recipes import mistakes, write_recipe
from helpers.same_end import assert_same_end
from helpers.scripted_training import Training, context, ema, files_of, with_strategies


def followed(folder, strategy, *values: float, gradient: float = 0.0) -> float | None:
    training = Training(folder)
    training.put(0.0)
    training.begin(strategy)
    for value in values:
        training.step(value, gradient)
    return training.end(strategy)


def test_averages_by_hand(tmp_path):
    assert followed(tmp_path, ema(decay=0.5), 1, 1, 3) == pytest.approx(0.5 * (0.5 * 0.5 + 0.5) + 1.5)
    assert followed(tmp_path, ema(decay=0.5, every=2), 1, 4, 5) == pytest.approx(2.0)
    assert followed(tmp_path, ema(decay=0.5, start=2), 1, 2, 6) == pytest.approx(4.0), "begins with the second step's"
    assert followed(tmp_path, ema(decay=0.5, start=9), 1, 2) is None
    assert followed(tmp_path, ema(rule="warmup", decay=0.99), 10) == pytest.approx(9.0)
    assert followed(tmp_path, ema(decay=0.5, device="cpu"), 1, 1, 3) == pytest.approx(1.875)


def test_balanced_follows_a_falling_loss_and_stays_where_it_rises(tmp_path):
    """Drift 1 before the second step. Gradient -1: the loss falls along it, so all is taken; +1: (1 - .9)^2 of it."""
    assert followed(tmp_path, ema(rule="balanced", decay=0.9), 1, 2, gradient=-1.0) == pytest.approx(2.0)
    first = 0.1  # no drift yet: the constant rule
    assert followed(tmp_path, ema(rule="balanced", decay=0.9), 1, 2, gradient=1.0) == pytest.approx(first + 0.01 * 1.9)


def test_an_average_goes_on_over_stages_and_may_begin_anew(tmp_path):
    for span, wanted in (("stream", 0.5 * 1 + 0.5 * 4), ("task", 0.5 * 2 + 0.5 * 4)):
        strategy = ema(decay=0.5, span=span)
        assert followed(tmp_path, strategy, 2) == pytest.approx(1.0)
        strategy.save(tmp_path / span)
        again = ema(decay=0.5, span=span)
        again.load(tmp_path / span)
        training = Training(tmp_path)
        training.stage, training.services = context(tmp_path, "two")
        training.put(2.0)
        training.begin(again)
        training.step(4.0)
        assert training.end(again) == pytest.approx(wanted)


def test_lookahead_by_hand(tmp_path):
    training = Training(tmp_path)
    training.put(0.0)
    training.begin(Lookahead(None, LookaheadSpec(kind="lookahead", every=2, alpha=0.25), "0"))
    seen = []
    for value in (1.0, 4.0, 9.0, 5.0):
        training.step(value)
        seen.append(training.model.weight[0, 0].item())
    assert seen == pytest.approx([1.0, 1.0, 9.0, 2.0])


def test_stochastic_restore(tmp_path):
    recipe = SimpleNamespace(strategies=())
    strategy = StochasticRestore(recipe, RestoreSpec(kind="stochastic-restore", probability=0.25), "0")
    training = Training(tmp_path)
    training.model = torch.nn.Linear(100, 100)
    training.put(0.0)
    training.begin(strategy)
    training.step(1.0)
    once = training.model.weight.detach().clone()
    assert set(once.unique().tolist()) == {0.0, 1.0} and abs((once == 0).float().mean().item() - 0.25) < 0.02
    training.state.global_step = 0
    training.step(1.0)
    assert torch.equal(training.model.weight, once), "the same step restores the same weights"
    training.step(1.0)
    assert not torch.equal(training.model.weight, once)


# -- whole runs ----------------------------------------------------------------------------------------------------------

MANY = (
    {"kind": "lookahead", "every": 3},
    {"kind": "stochastic-restore", "to": "task-start"},
    {"kind": "ema", "rule": "lcia-paper", "serve": "live"},
    {"kind": "ema", "rule": "bema", "serve": "live", "start": 3},
    {"kind": "ema", "rule": "balanced", "decay": 0.9, "every": 2, "span": "task"},
)


def test_killed_inside_a_stage(cpt, tmp_path):
    """Every strategy's state is in checkpoints and points: the same weights, averages and log as without a kill."""
    file = write_recipe(tmp_path / "recipe.yaml", with_strategies(*MANY))
    assert cpt("run", file, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    for call in (5, 6 + 5):  # in the first task, and in the second
        out = tmp_path / f"killed-{call}"
        at = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": call}
        assert cpt("run", file, "--out", out, "--quiet", at=at) == -signal.SIGKILL
        assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
        assert_same_end(out, tmp_path / "alone")
        for folder in ("served", "strategies"):
            assert files_of(out, folder) == files_of(tmp_path / "alone", folder) != {}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["ema/share"] <= 1 for line in lines if "ema/share" in line) and "ema/share" in lines[-1]


def test_what_is_fed_back_is_what_the_next_task_starts_from(cpt, tmp_path):
    content = with_strategies({"kind": "ema", "decay": 0.9, "feed_back": True}, steps=3)
    assert cpt("run", write_recipe(tmp_path / "r.yaml", content), "--out", tmp_path / "run", "--quiet") == 0, cpt.output
    point = tmp_path / "run" / "points" / "01-reverse"
    model = load_file(point / "model" / "model.safetensors")
    state = load_file(point / "strategies" / "0-ema" / "tensors.safetensors")
    assert not (point / "served").exists(), "it is the model itself"
    assert all(torch.equal(tensor, state[f"average/{name}"]) for name, tensor in model.items())
    plain = with_strategies({"kind": "mcl", "decay": 0.9}, steps=3)
    assert cpt("run", write_recipe(tmp_path / "p.yaml", plain), "--out", tmp_path / "plain", "--quiet") == 0, cpt.output
    live = load_file(tmp_path / "plain" / "points" / "01-reverse" / "model" / "model.safetensors")
    slow = load_file(tmp_path / "plain" / "points" / "01-reverse" / "served" / "model.safetensors")
    assert all(torch.equal(slow[name], model[name]) for name in slow), "the same steps, the same average"
    assert not all(torch.equal(slow[name], live[name]) for name in slow)


def test_an_adapter_is_averaged_alone(cpt, tmp_path):
    content = with_strategies({"kind": "ema", "decay": 0.5}, steps=3, tasks=("reverse",))
    content["adapter"] = {"kind": "lora", "r": 2, "target_modules": "all-linear"}
    assert cpt("run", write_recipe(tmp_path / "r.yaml", content), "--out", tmp_path / "run", "--quiet") == 0, cpt.output
    point = tmp_path / "run" / "points" / "01-reverse"
    served = load_file(point / "served" / "adapter_model.safetensors")
    state = load_file(point / "strategies" / "0-ema" / "tensors.safetensors")
    assert len(served) == len(state)
    for name, tensor in served.items():
        assert torch.equal(tensor, state["average/" + name.replace(".weight", ".default.weight")])


@pytest.mark.slow
def test_two_processes_have_the_average_of_one(cpt, tmp_path):
    content = with_strategies(
        {"kind": "ema", "rule": "balanced", "decay": 0.9}, steps=3, tasks=("reverse",), evaluate=2
    )
    args = content["stream"][0]["stages"][0]["args"]
    args |= {"optim": "sgd", "learning_rate": 0.1}
    alone = write_recipe(tmp_path / "alone.yaml", content)
    assert cpt("run", alone, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    args |= {"per_device_train_batch_size": args["per_device_train_batch_size"] // 2}
    done = launch(
        LAUNCHERS / "ddp-cpu.yaml", "run", write_recipe(tmp_path / "two.yaml", content), "--out", tmp_path / "two"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (
        load_file(tmp_path / name / "points" / "01-reverse" / "strategies" / "0-ema" / "tensors.safetensors")
        for name in ("alone", "two")
    )
    assert one.keys() == two.keys()
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6


# -- mistakes and the plan -----------------------------------------------------------------------------------------------

WRONG = {
    "another rule": (
        {"kind": "ema", "rule": "balance"},
        "must be one of constant, warmup, bema, lcia-paper, lcia-code",
    ),
    "an option of another rule": ({"kind": "ema", "lag": 3.0}, "lag is an option of the rule bema, not of constant"),
    "bema's decay": (
        {"kind": "ema", "rule": "bema", "decay": 0.5},
        "decay is an option of the rules constant, warmup, lcia-paper",
    ),
    "gradients elsewhere": ({"kind": "ema", "rule": "balanced", "device": "cpu"}, "device must be `weights`"),
    "no average": ({"kind": "ema", "decay": 1.0}, "strategies.0.decay"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name, tmp_path):
    spec, said = WRONG[name]
    (line,) = mistakes(tmp_path, with_strategies(spec))
    assert said in line and "strategies.0" in line


LIVE = {"kind": "mcl", "serve": "live"}


@pytest.mark.parametrize(
    "specs, said",
    [
        (
            [{"kind": "ema"}, {"kind": "mcl"}],
            "strategies.1.serve: is ema in strategies.0 too, and only one is allowed: set live",
        ),
        (
            [{"kind": "ema", "feed_back": True}, {"kind": "lookahead"}, LIVE | {"feed_back": True}],
            "strategies.2.feed_back: is true in strategies.0 too, and only one is allowed: set false",
        ),
    ],
)
def test_of_two_averages_none_is_lost(specs, said, tmp_path):
    (line,) = mistakes(tmp_path, with_strategies(*specs))
    assert said in line


def test_the_plan_says_them(tmp_path):
    recipe = load(write_recipe(tmp_path / "recipe.yaml", with_strategies({"kind": "ema", "rule": "balanced"}, LIVE)))
    told = plan.describe(recipe, tmp_path / "run")
    assert "  strategies\n    ema, rule balanced\n    mcl, serve live\n" in told
