"""Baselines of rlvr that TRL does not have: by hand, as they reach a real step's loss, after a kill; and TRL's losses."""

import math

import pytest
import torch

from cpt import losses, models, tiny
from cpt.checks import plan
from cpt.recipe import RecipeErrors, load
from cpt.recipe.trl_bounds import CHOICES
from cpt.stages.rl.baselines import Baseline, group_advantages
from helpers import one_step
from helpers.recipes import write_recipe
from helpers.rlvr_runs import assert_a_kill_changes_nothing, rlvr
from helpers.same_end import logged

REWARDS = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0]
BY_HAND = {  # of REWARDS, for answers of 2, 3, 4, 5 tokens (the end is one)
    "leave-one-out": [2 / 3, -2 / 3, -2 / 3, 2 / 3, -2 / 3, -2 / 3, -2 / 3, 2.0],
    "length-weighted": [0.5, -0.5, -0.5, 0.5, -10 / 14, -10 / 14, -10 / 14, 2 - 10 / 14],
}


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return models.load_tokenizer(tiny.path(), load("quickstart"))


def reached(made) -> dict[tuple, float]:
    """{(prompt and answer): its advantage} of all micro-batches."""
    found = {}
    for inputs in made.seen:
        for i, advantage in enumerate(inputs["advantages"].tolist()):
            prompt = inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()].tolist()
            answer = inputs["completion_ids"][i][inputs["completion_mask"][i].bool()].tolist()
            found[*prompt, *answer] = advantage
    return found


def wanted(tokenizer, advantages) -> dict[tuple, float]:
    prompts = [tokenizer(prompt)["input_ids"] for prompt in one_step.PROMPTS for _ in range(4)]
    rows = zip(prompts, one_step.answers(tokenizer), advantages, strict=True)
    return {(*prompt, *answer): advantage for prompt, answer, advantage in rows}


def by_gradient(policy, tokenizer) -> list[float]:
    """OBLR-PO's advantages of REWARDS, one answer at a time."""
    weights = []
    for prompt, answer in zip(
        (p for p in one_step.PROMPTS for _ in range(4)), one_step.answers(tokenizer), strict=True
    ):
        start = tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            p_TV = policy(torch.tensor([start + answer])).logits[0].softmax(-1)
        weights.append(sum((1 - p_TV[len(start) - 1 + t, token].item()) ** 2 for t, token in enumerate(answer)))
    found = []
    for i, reward in enumerate(REWARDS):
        others = [j for j in range(i // 4 * 4, i // 4 * 4 + 4) if j != i]
        found.append(reward - sum(weights[j] * REWARDS[j] for j in others) / sum(weights[j] for j in others))
    return found


@pytest.mark.parametrize("name", [*BY_HAND, "gradient-weighted"])
@pytest.mark.parametrize("cut", [{}, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, "old"])
def test_the_advantages_that_reach_the_loss(tokenizer, tmp_path, name, cut):
    """In one pass, in two, and (`old`) where a generation serves two steps and TRL has the probabilities already."""
    args = {"per_device_train_batch_size": 4, "steps_per_generation": 2, "max_steps": 2} if cut == "old" else cut
    answers = one_step.answers(tokenizer)
    made = one_step.trainer(tmp_path, answers, REWARDS, {"baseline": Baseline(name)}, **args)
    advantages = BY_HAND.get(name) or by_gradient(made.model, tokenizer)
    made.train()
    found, expected = reached(made), wanted(tokenizer, advantages)
    assert found.keys() == expected.keys() and ("old_per_token_logps" in made.seen[0]) == (cut == "old")
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-5)
    told = next(line for line in made.state.log_history if "baseline/mean" in line)
    baselines = [reward - value for reward, value in zip(REWARDS, advantages, strict=True)]
    assert told["baseline/mean"] == pytest.approx(sum(baselines) / 8, abs=1e-5)
    shift = sum(abs(b - 0.5) for b in baselines) / 8  # both groups have a mean of 1/2
    assert told["baseline/shift"] == pytest.approx(shift, abs=1e-5)


def test_what_cannot_be_scored_is_in_no_baseline():
    rewards = torch.tensor([[1.0, math.nan, 0.0, 0.0], [math.nan, math.nan, 3.0, math.nan]])
    lengths = torch.tensor([[2.0, 50.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    found = group_advantages("length-weighted", rewards, lengths)
    assert found[0].tolist() == pytest.approx([0.5, 0, -0.5, -0.5])
    assert found[1].tolist() == [0, 0, 0, 0], "an answer that no other stands beside has no advantage"
    assert group_advantages("leave-one-out", rewards)[0].tolist() == pytest.approx([1, 0, -0.5, -0.5])
    assert group_advantages("gradient-weighted", rewards, lengths)[0].tolist() == pytest.approx([1, 0, -2 / 3, -2 / 3])


UNSCORED = [1.0, None, 0.0, 0.0, None, None, 3.0, None]  # the second group has one that is scored
HOLES = {  # of UNSCORED, for answers of 2, 3, 4, 5 tokens; TRL's: (1 - 1/3) / .577, not over the .471 of a filled hole
    None: [1.1547, 0, -0.57735, -0.57735, 0, 0, 0, 0],
    "leave-one-out": [1, 0, -0.5, -0.5, 0, 0, 0, 0],
    "length-weighted": [1 - 2 / 11, 0, -2 / 11, -2 / 11, 0, 0, 0, 0],
}


@pytest.mark.parametrize("name", HOLES)
def test_what_cannot_be_scored_has_no_advantage_in_a_step(tokenizer, tmp_path, name):
    """Of rlvr itself, and of each baseline: as it reaches the loss."""
    options = {} if name is None else {"baseline": Baseline(name)}
    made = one_step.trainer(tmp_path, one_step.answers(tokenizer), UNSCORED, options, scale_rewards="group")
    made.train()
    found, expected = reached(made), wanted(tokenizer, HOLES[name])
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=2e-4)


@pytest.mark.parametrize(
    "name", ["group-mean", "group-mean-std", "leave-one-out", "length-weighted", "gradient-weighted"]
)
def test_no_estimator_counts_what_cannot_be_scored(name):
    """Each group of three with a hole is the group of two without it."""
    generator = torch.Generator().manual_seed(0)
    rewards, weights = (torch.rand(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    for hole in range(3):
        others = [place for place in range(3) if place != hole]
        holed = rewards.clone()
        holed[:, hole] = math.nan
        found = losses.advantages(name, holed, lengths_PG=weights, gradients_PG=weights)
        alone = losses.advantages(
            name, rewards[:, others], lengths_PG=weights[:, others], gradients_PG=weights[:, others]
        )
        torch.testing.assert_close(found[:, others], alone)
        assert found[:, hole].tolist() == [0] * 4


def test_where_the_policy_is_certain():
    """Weights of 0, or of one answer alone: the others count alike, and no baseline is lost."""
    rewards = torch.tensor([[1.0, 1.0, 0.0]])
    for weights in ([0.0, 0.0, 0.0], [1e-13, 1e-13, 1e-13], [0.0, 0.0, 3.0]):
        found = group_advantages("gradient-weighted", rewards, torch.tensor([weights]))
        assert found[0, 2].item() == pytest.approx(-1.0, abs=1e-4) and found.abs().max() <= 1 + 1e-4
    assert group_advantages("gradient-weighted", rewards, torch.zeros(1, 3))[0, 0].item() == pytest.approx(0.5)


@pytest.mark.parametrize("loss_type", CHOICES["GRPOConfig", "loss_type"])
def test_every_loss_of_trl_takes_a_step(tokenizer, tmp_path, loss_type):
    made = one_step.trainer(tmp_path, one_step.answers(tokenizer), REWARDS, loss_type=loss_type, optim="sgd")
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.train()
    change = one_step.moved(made, before)["model.norm.weight"]
    assert made.loss_type == loss_type and change.isfinite().all() and change.abs().max() > 0


def test_an_unknown_loss_is_told_with_the_nearest(tmp_path):
    content = rlvr()
    content["stream"][0]["stages"][0]["args"]["loss_type"] = "dr-grpo"
    with pytest.raises(RecipeErrors, match=r"must be one of grpo, .* not 'dr-grpo'; did you mean dr_grpo\?"):
        load(write_recipe(tmp_path / "recipe.yaml", content))


WRONG = {
    "scaled too": (
        {"advantage": "length-weighted", "args": {"scale_rewards": "group"}},
        r"args.scale_rewards: \(group\) is TRL's advantage, and `advantage: length-weighted` replaces it: set none",
    ),
    "no such": ({"advantage": "optimal"}, "must be one of leave-one-out, length-weighted, gradient-weighted, not 'opt"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name, tmp_path):
    options, message = WRONG[name]
    content = rlvr(**{key: value for key, value in options.items() if key != "args"})
    content["stream"][0]["stages"][0]["args"] |= options.get("args", {})
    with pytest.raises(RecipeErrors, match=message) as caught:
        load(write_recipe(tmp_path / "recipe.yaml", content))
    assert len(caught.value.problems) == 1


def test_a_kill_changes_nothing_and_the_plan_says_it(cpt, tmp_path):
    """With the step's own factor, the reward of majorities, dynamic sampling and an overlong penalty beside it."""
    content = rlvr(
        advantage="gradient-weighted", snr_step={"min": 0.0}, ttrl={}, dynamic_sampling={}, overlong={"buffer": 8}
    )
    args = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "lr_scheduler_type": "cosine"}
    content["stream"][0]["stages"][0]["args"] |= args
    text = plan.describe(load(write_recipe(tmp_path / "recipe.yaml", content)), tmp_path / "run")
    assert "reward is agreement with the majority of 4 (the rows' answers are not read)" in text
    assert "gradient-weighted baseline, each step's lr times 0 to 1 by its signal-to-noise ratio" in text
    place = "cpt.stages.metrics_logger.MetricsLogger.on_step_end"
    out = assert_a_kill_changes_nothing(cpt, tmp_path, content, place, 5, given=["answers"])
    lines = logged(out)
    assert all({"baseline/mean", "baseline/shift", "snr/step", "ttrl/majority_share"} <= line.keys() for line in lines)
    assert all(0 <= line["snr/step"] <= 1 for line in lines) and len({line["snr/step"] for line in lines}) > 1
    report = (out / "report.html").read_text()
    for title in ("Baseline&#39;s distance to the group mean", "Factor of the learning rate", "Share of the majority"):
        assert title in report
