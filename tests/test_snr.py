"""OBLR-PO's step size: the ratio against its definition, the factor as it reaches the weights, mistakes."""

import math

import pytest
import torch

from cpt import models, tiny
from cpt.checks import all_checks
from cpt.errors import UserError
from cpt.recipe import RecipeErrors, load
from cpt.recipe.stages import SnrStep as Options
from cpt.sharding import FLAGS
from cpt.stages.rl.snr import check_whole, multiplier, signal_to_noise
from helpers import one_step
from helpers.recipes import write_recipe
from helpers.rlvr_runs import rlvr, run
from helpers.snr_ranks import ratio_of

REWARDS = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0]


@pytest.mark.parametrize(("count", "strength"), [(2, 1.0), (4, 0.3), (8, 0.0)])
def test_the_ratio_of_given_gradients(count, strength):
    samples = torch.randn(count, 50, generator=torch.Generator().manual_seed(count)) + strength
    found = signal_to_noise((samples**2).sum().item(), (samples.mean(0) ** 2).sum().item(), count)
    assert found == pytest.approx(ratio_of(samples), rel=1e-4, abs=1e-9)


def test_noise_alone_has_no_signal_on_average():
    draws = torch.randn(4000, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    totals, means = (draws**2).sum((1, 2)), (draws.mean(1) ** 2).sum(1)
    noise = (totals - 4 * means) / 3 / 4
    assert (means - noise).mean().item() == pytest.approx(0, abs=0.06), "|E g|^2 is biased (|m|^2 is 1.5)"
    draws += 1.0
    totals, means = (draws**2).sum((1, 2)), (draws.mean(1) ** 2).sum(1)
    found = [signal_to_noise(total, mean, 4) for total, mean in zip(totals.tolist(), means.tolist(), strict=True)]
    assert sorted(found)[2000] == pytest.approx(6 / (6 / 4), rel=0.15), "6 components of 1, variance 1, 4 samples"


def test_the_factor_within_its_bounds():
    assert [multiplier(snr, 0.1, 0.9) for snr in (0.0, 1.0, 4.0, math.inf)] == pytest.approx([0.1, 0.5, 0.8, 0.9])
    assert multiplier(signal_to_noise(math.nan, math.nan, 2), 0.1, 1.0) == 0.1
    assert signal_to_noise(0.0, 0.0, 4) == 0.0 and signal_to_noise(4.0, 1.0, 4) == math.inf


# -- in a real step --------------------------------------------------------------------------------------------------------


def step(folder, options=None, **args):
    """(the trainer after one step of two micro-batches, by how much its weights moved)."""
    tokenizer = models.load_tokenizer(tiny.path(), load("quickstart"))
    args = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_grad_norm": 1e9} | args
    made = one_step.trainer(folder, one_step.answers(tokenizer), REWARDS, options, **args)
    before = {name: value.double() for name, value in made.model.state_dict().items()}
    made.train()
    return made, one_step.moved(made, before)


def scaled(folder, factor: float, **args):
    return step(folder, {"snr_step": Options(min=factor, max=factor)}, **args)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_the_samples_are_the_gradients_of_whole_groups(tiny_folder, tmp_path, monkeypatch, loss_type):
    """dapo divides by the tokens of the step, grpo by the number of micro-batches; clipping comes later."""
    heard = []
    monkeypatch.setattr("cpt.stages.rl.snr.signal_to_noise", lambda *given: heard.append(given) or 1.0)
    made, _ = scaled(tmp_path, 1.0, loss_type=loss_type, learning_rate=0.0, max_grad_norm=1e-3)
    samples = []
    for inputs in made.seen.copy():
        assert len({tuple(ids) for ids in inputs["prompt_ids"].tolist()}) == 1, "two prompts in a group's micro-batch"
        assert inputs["completion_mask"].sum(1).sort().values.tolist() == [2, 3, 4, 5], "not the whole group"
        made.model.zero_grad()
        made._compute_loss(made.model, inputs).backward()
        samples.append(2 * torch.cat([each.grad.flatten() for each in made.model.parameters()]))
    samples_KD, [(total, mean, count)] = torch.stack(samples), heard
    assert count == len(samples) == 2
    assert total == pytest.approx((samples_KD**2).sum().item(), rel=1e-3)
    assert mean == pytest.approx((samples_KD.mean(0) ** 2).sum().item(), rel=1e-3) and mean > 1e-3


@pytest.mark.parametrize("args", [{"optim": "sgd", "learning_rate": 1.0}, {"weight_decay": 0.1}], ids=["sgd", "adamw"])
def test_the_factor_reaches_the_weights(tiny_folder, tmp_path, args):
    """The first step of Adam does not see the gradient's size, and its decay is scaled with the rest: exactly a half."""
    plain, whole = scaled(tmp_path / "one", 1.0, **args)
    made, half = scaled(tmp_path / "half", 0.5, **args)
    most = max(change.abs().max().item() for change in whole.values())
    assert most > 1e-4
    for name, change in whole.items():
        torch.testing.assert_close(half[name], change / 2, atol=1e-3 * most, rtol=0)
    assert made.optimizer.param_groups[0]["lr"] == plain.optimizer.param_groups[0]["lr"], "the rate is put back"


# -- mistakes ----------------------------------------------------------------------------------------------------------------


def test_one_micro_batch_is_refused(cpt, tmp_path):
    run(cpt, tmp_path, rlvr(snr_step={}), code=2)
    assert "stream.reverse.stages.0.snr_step: the variance of a step's gradient needs two micro-batches" in cpt.output
    assert "set args.gradient_accumulation_steps to 2 or more" in cpt.output and "Traceback" not in cpt.output


def test_two_processes_make_two(tmp_path, monkeypatch):
    made = load(write_recipe(tmp_path / "recipe.yaml", rlvr(snr_step={})))
    with pytest.raises(RecipeErrors, match="the variance of a step's gradient needs two micro-batches"):
        all_checks.check(made, tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    all_checks.check(made, tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min": 0.5, "max": 0.2}, r"snr_step: min \(0.5\) must be at most max \(0.2\)"),
        ({"min": -0.5}, "snr_step.min: input should be greater than or equal to 0"),
        ({"most": 1}, "snr_step.most: unknown key"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, options, message):
    with pytest.raises(RecipeErrors, match=message) as caught:
        load(write_recipe(tmp_path / "recipe.yaml", rlvr(snr_step=options)))
    assert len(caught.value.problems) == 1


def test_half_a_group_is_refused(tmp_path):
    content = rlvr(snr_step={})
    content["stream"][0]["stages"][0]["args"] |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}
    with pytest.raises(
        RecipeErrors, match=r"per_device_train_batch_size: \(2\) must be a multiple of num_generations \(4\)"
    ):
        load(write_recipe(tmp_path / "recipe.yaml", content))


@pytest.mark.parametrize("flag", FLAGS)
def test_sharded_gradients_are_refused(flag, monkeypatch):
    monkeypatch.setenv(flag, "true")
    with pytest.raises(UserError, match=r"stream\.a\.stages\.0\.snr_step: needs whole gradients on each process"):
        check_whole("stream.a.stages.0")
