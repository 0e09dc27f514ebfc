"""Alarms of stages that sample their own answers: a collapse is told, once each; success is not."""

import json
from types import SimpleNamespace

import pytest
import torch

from cpt.recipe import Alarms as Limits
from cpt.recipe import load
from helpers.contexts import stage_and_services
from helpers.recipes import short, write_recipe

REWARD = "rewards/reward/mean"


def told(*logs: dict, every: int = 1, **limits) -> list[str]:
    """What is warned of while a stage logs these, each `every` steps after the one before."""
    from cpt.stages.alarms import Alarms

    said, state = [], SimpleNamespace(global_step=0, log_history=[])
    stage, services = stage_and_services(
        task=SimpleNamespace(name="sort"),
        name="0-rlvr",
        screen=SimpleNamespace(warn=said.append),
        recipe=SimpleNamespace(alarms=Limits(**limits)),
    )
    alarms = Alarms(stage, services)
    for each in logs:
        state.global_step += every
        state.log_history.append(each | {"step": state.global_step})
        alarms.on_log(None, state, None, logs=each)
    alarms.on_log(None, state, None, logs={"train_runtime": 3.0})
    return said


def steps(**values: list[float]) -> list[dict]:
    return [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]


FALLING = [1.14, 0.8, 0.3, 0.1, 0.06, 0.05, 0.04, 0.04, 0.04, 0.04]


def test_a_collapse_of_entropy():
    said = told(*steps(entropy=FALLING, **{REWARD: [0.3] * 10}))
    assert said == [
        "sort 0-rlvr, step 7: the entropy of the answers fell from 1.1 to 0.11 nats a token (alarms.entropy: 0.1 of "
        "the first) at a mean reward of 0.30: they become identical; lower learning_rate, or add a KL (`beta`)"
    ]
    assert told(*steps(entropy=FALLING, **{REWARD: [0.3] * 2 + [0.97] * 8})) == [], "all is learnt"
    assert told(*steps(entropy=FALLING, **{REWARD: [0.3] * 10}), entropy=None) == []
    assert len(told(*steps(entropy=FALLING[::3], **{REWARD: [0.3] * 4}), every=10)) == 1, "logged every ten steps"


def test_a_stage_without_rewards_looks_at_its_loss():
    assert len(told(*steps(entropy=FALLING, loss=[1.0] * 10))) == 1
    assert told(*steps(entropy=FALLING, loss=[1.0 / (step + 1) for step in range(10)])) == []


def test_groups_without_signal():
    rising = [0.2, 0.5, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0]
    said = told(*steps(groups_without_signal=rising, **{REWARD: [0.25] * 8}))
    assert len(said) == 1 and said[0].startswith(
        "sort 0-rlvr, step 7: 98% of the groups have only answers of equal reward (alarms.groups_without_signal: "
        "0.9) at a mean reward of 0.25"
    )
    assert told(*steps(groups_without_signal=rising, **{REWARD: [0.95] * 8})) == [], "all is learnt"
    assert len(told(*steps(groups_without_signal=[0.5] * 8, **{REWARD: [0.25] * 8}), groups_without_signal=0.4)) == 1


def test_a_policy_far_from_its_start():
    said = told({"kl_from_start": 0.9}, {"reward": 0.1}, {"kl_from_start": 1.7}, {"kl_from_start": 1.9})
    assert len(said) == 1 and said[0].startswith(
        "sort 0-rlvr, step 3: the KL from the stage's start is 1.7 nats a token"
    )
    said = told({"kl": 2.5, "kl_from_start": 0.1})
    assert len(said) == 1 and "the KL from the reference is 2.5 nats" in said[0]
    assert told({"kl": 2.5}, kl=3.0) == told({"kl": 2.5}, kl=None) == told({"kl": 0.4, "kl_from_start": 1.6}) == []


def test_a_ratio_far_from_one():
    said = told(*({"sampling/importance_sampling_ratio/mean": ratio} for ratio in (1.0, 0.95, 1.3, 1.4)))
    assert len(said) == 1 and said[0].startswith(
        "sort 0-rlvr, step 3: the policy gives the engine's answers 1.30 times"
    )


def test_all_of_a_collapse_is_told_each_once():
    collapse = steps(
        entropy=FALLING,
        groups_without_signal=[0.2, 0.5, 0.9] + [1.0] * 7,
        kl=[0.0, 0.1, 0.5, 1.0, 1.7, 1.7, 1.7, 1.7, 1.7, 1.7],
        **{REWARD: [0.4] * 3 + [0.25] * 7},
    )
    assert [line.split(": ")[0] for line in told(*collapse)] == [f"sort 0-rlvr, step {step}" for step in (5, 7, 7)]


def test_groups_of_one_reward():
    from cpt.stages.rlvr import is_alike

    rewards = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.3, 0.3, 0.0, 0.0])
    unscorable = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 1]).bool()
    assert is_alike(rewards, unscorable, 2).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("kind", ["rlvr", "hybrid", "distill"])
def test_a_run_warns(cpt, tmp_path, kind):
    """Thresholds that everything passes: each alarm once, from the numbers that the stage logs."""
    content = short("rlvr" if kind == "hybrid" else kind, steps=7, tasks=("reverse",), evaluate=2)
    if kind == "hybrid":
        content["stream"][0]["stages"][0] |= {"kind": "hybrid", "method": "luffy"}
    content["alarms"] = {"entropy": 0.99, "groups_without_signal": 0.001, "kl": 1e-9, "learnt": 2.0}
    content["stream"][0]["stages"][0]["args"] |= {"learning_rate": 3e-3}
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 0, cpt.output
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    warned = [line for line in cpt.output.splitlines() if line.startswith("warning: ")]
    if kind == "distill":
        assert {"entropy"} <= {*logged[-1]}
        return
    assert [sum(words in line for line in warned) for words in ("of the groups", "the KL from the stage's")] == [1, 1]
    assert all(0 <= line["groups_without_signal"] <= 1 for line in logged)


def test_a_rejection_stage_without_right_answers_warns(cpt, tmp_path):
    content = short("rejection", steps=1, tasks=("reverse",), evaluate=2)
    content["alarms"] = {"groups_without_signal": 0.01}
    content["stream"][0]["stages"][0] |= {"rounds": 1, "samples": {"prompts": 32, "samples": 1}}
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 0, cpt.output
    assert "warning: reverse 0-rejection, round 1: only " in cpt.output


def test_alarms_may_change_in_a_run_and_are_no_part_of_what_it_is():
    from cpt.recipe import identity

    assert identity(load("quickstart")) == identity(load("quickstart", ["alarms.kl=3", "alarms.entropy=null"]))
