"""A run that is killed anywhere and started again ends as one left alone: the same weights bit for bit, the same results."""

import shutil
import signal

import pytest

from helpers.recipes import RECIPES, recipe, write_recipe
from helpers.same_end import assert_same_end, logged, results, trained_steps, weights

pytestmark = pytest.mark.usefixtures("given_rewards")  # right and wrong answers, whatever the model can do
IN_STAGE = {
    "between checkpoints": {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 7},
    "while the first checkpoint is sealed": {"place": "cpt.stages.checkpoints.seal", "call": 1},
    "right after the first checkpoint": {"place": "cpt.stages.checkpoints.seal", "call": 1, "when": "after"},
    "in the second task": {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 15},
}
BETWEEN = {
    "before the model is saved": {"place": "cpt.models.save_policy", "call": 1},
    "before the stage is committed": {"place": "cpt.rundir.RunDir.commit_stage", "call": 1},
    "before the point is committed": {"place": "cpt.rundir.RunDir.commit", "call": 2},
    "in the middle of the commit": {"place": "cpt.rundir.seal", "call": 3},
    "between the commit's rename and its end": {"place": "cpt.rundir.sync_folder", "call": 2},
    "before the point's evaluation": {"place": "cpt.loop.rows.evaluate", "call": 2},
    "before the evaluation is written": {"place": "cpt.rundir.RunDir.write_evaluation", "call": 2},
    "before the results are written": {"place": "cpt.loop.rows.write_results", "call": 2},
    "while the base is made": {"place": "cpt.models.write_base", "call": 1, "when": "after"},
    "before the report": {"place": "cpt.report.build", "call": 1},
}


@pytest.mark.parametrize("place", IN_STAGE)
@pytest.mark.parametrize("kind", ["sft", "dpo", "rlvr", "rlvr-two-iterations"])
def test_killed_inside_a_stage(cpt, alone, tmp_path, kind, place):
    reference = alone(kind)
    recipe, out = write_recipe(tmp_path / f"{kind}.yaml", RECIPES[kind]), tmp_path / "run"
    assert cpt("run", recipe, "--out", out, "--quiet", at=IN_STAGE[place]) == -signal.SIGKILL, cpt.output
    assert cpt("run", recipe, "--out", out, "--quiet") == 0, cpt.output
    assert_same_end(out, reference)


@pytest.mark.parametrize("rows, saved", [(200, [3, 6]), (40, [3, 8])])
def test_a_generation_that_is_no_whole_number_of_steps(cpt, tmp_path, rows, saved):
    """Three micro-batches a generation, two a step. With 40 rows an epoch has nine, and its last step takes one alone."""
    content = recipe("rlvr-uneven", tasks=("reverse",))
    content["stream"][0]["data"]["train"] = rows
    file, out, reference = write_recipe(tmp_path / "r.yaml", content), tmp_path / "run", tmp_path / "alone"
    assert cpt("run", file, "--out", reference, "--quiet") == 0, cpt.output
    at = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 9}
    assert cpt("run", file, "--out", out, "--quiet", at=at) == -signal.SIGKILL, cpt.output
    checkpoints = (out / "points" / ".01-reverse.work" / "0-rlvr" / "trainer").glob("checkpoint-*/DONE")
    assert sorted(int(file.parent.name.split("-")[1]) for file in checkpoints) == saved
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    weights = [folder / "points" / "01-reverse" / "model" / "model.safetensors" for folder in (out, reference)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert logged(out) == logged(reference)


@pytest.mark.parametrize("place", BETWEEN)
def test_killed_between_stages(cpt, alone, tmp_path, place):
    reference = alone("sft")
    recipe, out = write_recipe(tmp_path / "sft.yaml", RECIPES["sft"]), tmp_path / "run"
    assert cpt("run", recipe, "--out", out, "--quiet", at=BETWEEN[place]) == -signal.SIGKILL, cpt.output
    assert cpt("run", recipe, "--out", out, "--quiet") == 0, cpt.output
    assert_same_end(out, reference)


def test_a_kill_never_repeats_a_finished_stage(cpt, tmp_path):
    """Two stages in one task: killed in the second, the first is not trained again."""
    recipe, out = write_recipe(tmp_path / "mixed.yaml", RECIPES["mixed"]), tmp_path / "run"
    at = {"place": "cpt.stages.rlvr.run", "call": 1}
    assert cpt("run", recipe, "--out", out, "--quiet", at=at) == -signal.SIGKILL, cpt.output
    before = trained_steps(out)
    assert cpt("run", recipe, "--out", out, "--quiet") == 0, cpt.output
    assert trained_steps(out)[: len(before)] == before
    assert len(set(trained_steps(out))) == len(trained_steps(out))


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("kind", ["sft", "rlvr-two-iterations"])
def test_a_signal_saves_within_the_stage(cpt, alone, tmp_path, kind, number, code):
    recipe, out = write_recipe(tmp_path / f"{kind}.yaml", RECIPES[kind]), tmp_path / "run"
    at = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 5, "signal": number}
    assert cpt("run", recipe, "--out", out, at=at) == code, cpt.output
    assert "interrupted and saved" in cpt.output
    saved = sorted((out / "points" / ".01-reverse.work").rglob("checkpoint-*/DONE"))
    assert saved and saved[-1].parent.name in ("checkpoint-5", "checkpoint-6")
    assert cpt("run", recipe, "--out", out, "--quiet") == 0, cpt.output
    assert_same_end(out, alone(kind))


def test_a_signal_is_heard_while_pairs_are_sampled(cpt, alone, tmp_path):
    recipe, out = write_recipe(tmp_path / "dpo.yaml", RECIPES["dpo"]), tmp_path / "run"
    at = {"place": "cpt.stages.sampling.sample", "call": 1, "signal": signal.SIGTERM}
    assert cpt("run", recipe, "--out", out, at=at) == 143, cpt.output
    assert not list(out.rglob("pairs.json"))
    assert cpt("run", recipe, "--out", out, "--quiet") == 0, cpt.output
    assert_same_end(out, alone("dpo"))


def test_a_damaged_point_is_made_again_from_the_one_before(cpt, alone, tmp_path):
    reference, out = alone("sft"), tmp_path / "run"
    recipe = write_recipe(tmp_path / "sft.yaml", RECIPES["sft"])
    shutil.copytree(reference, out, symlinks=True)
    file = out / "points" / "02-caesar" / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert cpt("run", recipe, "--out", out) == 0, cpt.output
    assert "02-caesar is damaged" in cpt.output and "resuming from 01-reverse" in cpt.output
    assert weights(out) == weights(reference)
    assert results(out) == results(reference)


def test_a_damaged_checkpoint_is_not_used(cpt, alone, tmp_path):
    recipe, out = write_recipe(tmp_path / "sft.yaml", RECIPES["sft"]), tmp_path / "run"
    assert cpt("run", recipe, "--out", out, "--quiet", at=IN_STAGE["between checkpoints"]) == -signal.SIGKILL
    optimizer = next((out / "points").rglob("checkpoint-4/optimizer.pt"))
    data = bytearray(optimizer.read_bytes())
    data[len(data) // 2] ^= 1
    optimizer.write_bytes(data)
    assert cpt("run", recipe, "--out", out) == 0, cpt.output
    assert "checkpoint-4 is damaged" in cpt.output
    assert_same_end(out, alone("sft"))


STEP = "cpt.stages.metrics_logger.MetricsLogger.on_step_end"
DAMAGED = {
    "the pairs of a stage": ("dpo", {"place": STEP, "call": 6}, "0-dpo/trainer/pairs.json", "pairs.json is damaged"),
    "a stage before one that runs": (
        "mixed",
        {"place": STEP, "call": 16},
        "0-sft/model/model.safetensors",
        "reverse 0-sft: the finished stage is damaged",
    ),
    "the first of two finished stages": (
        "mixed",
        {"place": "cpt.rundir.RunDir.commit", "call": 2},
        "0-sft/stage.json",
        "reverse 0-sft: the finished stage is damaged",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_inside_a_task_is_told_and_mended(cpt, alone, tmp_path, name):
    kind, at, damaged, warning = DAMAGED[name]
    recipe, out = write_recipe(tmp_path / f"{kind}.yaml", RECIPES[kind]), tmp_path / "run"
    assert cpt("run", recipe, "--out", out, "--quiet", at=at) == -signal.SIGKILL, cpt.output
    file = out / "points" / ".01-reverse.work" / damaged
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert cpt("run", recipe, "--out", out, "--quiet") == 0, cpt.output
    assert cpt.output.count("warning: ") == 1 and warning in cpt.output
    assert_same_end(out, alone(kind))


def test_a_finished_run_is_not_trained_again(cpt, alone, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(alone("sft"), out, symlinks=True)
    recipe = write_recipe(tmp_path / "sft.yaml", RECIPES["sft"])
    at = {"place": "cpt.loop.tasks.run_stage", "call": 1}
    assert cpt("run", recipe, "--out", out, "--quiet", at=at) == 0, "a stage was trained again"


def test_another_recipe_is_refused(cpt, alone, tmp_path):
    recipe = write_recipe(tmp_path / "sft.yaml", RECIPES["sft"])
    assert cpt("run", recipe, "seed=5", "--out", alone("sft")) == 2
    assert "holds a run of another recipe: seed: 0 there, 5 here" in cpt.output
    assert "Traceback" not in cpt.output
