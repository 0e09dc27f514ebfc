"""An average as the KL's reference and as the policy that answers: which weights do what, by numbers; resume; mistakes."""

import signal

import pytest
import torch

from cpt.checks import plan
from cpt.recipe import load
from cpt.screen import QUIET, Screen
from helpers import given
from helpers.recipes import mistakes, recipe, short, write_recipe
from helpers.same_end import assert_same_end
from helpers.scripted_training import Training, ema

DECAY, STEPS = 0.5, 3
OPTIONS = {"decay": DECAY, "reference": "ema", "rollouts": "ema"}
BOTH = {"kind": "ema", **OPTIONS}
ADAPTER = {"kind": "lora", "r": 4, "target_modules": "all-linear"}


def with_average(*stages: str, spec: dict = BOTH, **more) -> dict:
    content = short(*stages, steps=STEPS, **more) | {"strategies": [spec]}
    for task in content["stream"]:
        for stage in task["stages"]:
            if stage["kind"] == "rlvr":
                stage["args"] |= {"beta": 0.1, "learning_rate": 1e-2, "save_steps": 2}
    return content


def test_the_policy_lends_its_place_and_the_reference_follows(tmp_path):
    training, strategy, reference = (
        Training(tmp_path),
        ema(**OPTIONS),
        {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)},
    )
    training.put(0.0)
    training.begin(strategy)
    strategy.reference(training.stage, training.services, reference)
    training.step(4.0)  # the average is 2 now
    training.callback.on_step_begin(None, training.state, None)
    assert reference["weight"].unique().tolist() == [2.0]
    weight = training.model.weight
    with (
        strategy.rollout_policy(training.stage, training.services)() as is_another,
        strategy.rollout_policy(training.stage, training.services)() as inner,
    ):
        assert is_another and inner and weight.unique().tolist() == [2.0]
    assert weight.unique().tolist() == [4.0]
    plain = ema(decay=DECAY)
    training.begin(plain)
    assert plain.rollout_policy(training.stage, training.services) is None
    early = ema(**OPTIONS, start=5)
    training.begin(early)
    early.reference(training.stage, training.services, reference)
    training.callback.on_step_begin(None, training.state, None)
    assert reference["weight"].unique().tolist() == [4.0], "until it begins it is the live weights"
    with early.rollout_policy(training.stage, training.services)() as is_another:
        assert not is_another and weight.unique().tolist() == [4.0]


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_who_answers_and_who_is_the_reference(tmp_path, tiny_folder, monkeypatch, adapter):
    """Step by step: the average, kept here by its formula, answers, is the old policy, and is the KL's reference."""
    from cpt.loop import run
    from cpt.rollouts.transformers import TransformersEngine
    from cpt.stages.rlvr import RlvrStageTrainer
    from cpt.strategies import tensors

    seen, kept, answering = [], {}, {}
    generate, make = TransformersEngine.generate, RlvrStageTrainer._generate_and_score_completions

    def weights(model):
        return {name: weight.detach().clone() for name, weight in tensors.trained(model).items()}

    def average(live):
        """What the average must be before this step."""
        if not kept:
            kept.update(live)
        for name, weight in live.items():
            kept[name] = torch.lerp(kept[name], weight, 1 - DECAY)

    def generating(self, prompts, sampling, on_done=None):
        if sampling.temperature > 0:  # evaluation is greedy
            answering.update(weights(self.model))
        return generate(self, prompts, sampling, on_done)

    def making(self, inputs):
        live = weights(self.model)
        average(live)
        output = make(self, inputs)
        after = weights(self.model)
        assert all(torch.equal(after[name], live[name]) for name in live), "the policy is itself again"
        worst = max((answering[name] - kept[name]).abs().max().item() for name in live)
        moved = max((live[name] - kept[name]).abs().max().item() for name in live)
        mask = output["completion_mask"]
        kl = ((output["old_per_token_logps"] - output["ref_per_token_logps"]).abs() * mask).max().item()
        seen.append((worst, moved, kl))
        return output

    given.rewards(monkeypatch)
    monkeypatch.setattr(TransformersEngine, "generate", generating)
    monkeypatch.setattr(RlvrStageTrainer, "_generate_and_score_completions", making)
    content = with_average("rlvr", tasks=("reverse",), evaluate=2) | ({"adapter": adapter} if adapter else {})
    run(load(write_recipe(tmp_path / "recipe.yaml", content)), tmp_path / "run", Screen(QUIET))
    assert len(seen) == STEPS
    for step, (worst, moved, kl) in enumerate(seen):
        assert worst < 1e-6 and kl < 1e-4
        assert (moved > 1e-3) == (step > 0), "by then the live weights are others"


@pytest.mark.usefixtures("given_rewards")
def test_killed_inside_a_stage(cpt, tmp_path):
    file = write_recipe(tmp_path / "recipe.yaml", with_average("rlvr"))
    assert cpt("run", file, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    at = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": STEPS + 3}
    assert cpt("run", file, "--out", tmp_path / "killed", "--quiet", at=at) == -signal.SIGKILL
    assert cpt("run", file, "--out", tmp_path / "killed", "--quiet") == 0, cpt.output
    assert_same_end(tmp_path / "killed", tmp_path / "alone")


REFERENCE, ROLLOUTS = ({"kind": "ema", key: "ema"} for key in ("reference", "rollouts"))
WRONG = {
    "no rollouts": (with_average("sft", spec=ROLLOUTS), "rollouts", "no stage generates rollouts with the average"),
    "no KL": (short("rlvr") | {"strategies": [REFERENCE]}, "reference", "no stage measures a KL"),
    "own answers": (
        recipe("rlvr", "distill") | {"strategies": [ROLLOUTS]},
        "rollouts",
        "stream.reverse.stages.1 (distill) learns from its own answers",
    ),
    "two": (
        with_average("rlvr") | {"strategies": [BOTH, REFERENCE | {"serve": "live"}]},
        "reference",
        "in strategies.0 too",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name, tmp_path):
    content, key, said = WRONG[name]
    line = mistakes(tmp_path, content)[0]
    assert f"strategies.{len(content['strategies']) - 1}.{key}" in line and said in line


def test_another_reference_is_a_mistake(tmp_path):
    content = with_average("rlvr", "dpo", spec=REFERENCE, tasks=("reverse",))
    rlvr, dpo = content["stream"][0]["stages"]
    rlvr["reference"], dpo["args"]["precompute_ref_log_probs"] = "base", True
    said = "\n".join(mistakes(tmp_path, content))
    assert "stream.reverse.stages.0 has the reference base" in said
    assert "stream.reverse.stages.1 has a reference that precompute_ref_log_probs moves or fixes" in said


def test_the_plan_says_what_the_kl_is_measured_from(tmp_path):
    file = write_recipe(tmp_path / "recipe.yaml", with_average("rlvr", tasks=("reverse",), spec=REFERENCE))
    assert "KL 0.1 to the average" in plan.describe(load(file), tmp_path / "run")
    assert "KL 0.1 to stage-start" in plan.describe(load(file, ["strategies=[]"]), tmp_path / "run")
