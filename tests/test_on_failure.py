"""What a run does when a gate fails after a task: stop, roll back, train again. A huge learning rate destroys the model."""

import json
import shutil

import pytest

from helpers.recipes import mistakes, recipe, write_recipe

WEIGHTS = "model.safetensors"


def content(on_failure, gates, rates=(1.0, 1e-5)):
    """Two tasks of two steps each; a model that was destroyed ends below its base (.64 and .62 of the questions)."""
    made = recipe("sft", evaluate=20)
    for task, rate in zip(made["stream"], rates, strict=True):
        args = {"max_steps": 2, "learning_rate": rate, "lr_scheduler_type": "constant"}
        task["stages"] = [{"kind": "sft", "args": task["stages"][0]["args"] | args}]
    made["evaluation"] |= {"gates": gates, "on_failure": on_failure}
    return made


def results_of(out):
    return json.loads((out / "results.json").read_text())


def weights(out, point):
    return (out / "points" / point / "model" / WEIGHTS).read_bytes()


def test_stop(tmp_path, cpt):
    """The stream ends, and `final` is the model before the task, each time it is run; with another limit it goes on."""
    file, out = write_recipe(tmp_path / "recipe.yaml", content("stop", {"below_base": 0.2})), tmp_path / "run"
    for _ in range(2):
        assert cpt("run", file, "--out", out, "--quiet") == 3, cpt.output
        said = " ".join(cpt.output.split())
        assert "Do not ship: below_base failed; reverse ends below the base" in said
        assert "The stream was stopped after 01-reverse; `final` is 00-base." in said
        assert (out / "final").resolve() == (out / "points" / "00-base" / "model").resolve()
    results = results_of(out)
    assert results["stopped"] == {"point": "01-reverse", "failed": ["below_base"]} and not results["complete"]
    assert "Stopped after 01-reverse: do not ship" in (out / "report.md").read_text().replace("\\", "")
    assert "below base is" in (out / "report.md").read_text().lower()
    assert cpt("run", file, "evaluation.gates.below_base=1", "--out", out, "--quiet") == 0, cpt.output
    assert results_of(out)["complete"] and "below_base 0.2 -> 1" in " ".join(cpt.output.split())


def test_rollback(tmp_path, cpt):
    """The planted regression is named and taken back, its attempt kept, and the next task starts from the model before."""
    file, out = write_recipe(tmp_path / "recipe.yaml", content("rollback", {"below_base": 0.2})), tmp_path / "run"
    assert cpt("run", file, "--out", out) == 0, cpt.output
    said = " ".join(cpt.output.split())
    assert "warning: 01-reverse: below_base failed: the task is rolled back; the attempt is kept" in said
    assert (
        "01-reverse was rolled back after 1 attempt(s) (below_base failed): its training is not in the model." in said
    )
    results = results_of(out)
    assert results["rolled_back"] == ["01-reverse"] and results["complete"] and results["verdict"]["verdict"] == "ship"
    assert results["accuracy"][1] == results["accuracy"][0]
    (attempt,) = results["attempts"]
    assert (attempt["point"], attempt["attempt"], attempt["change"]) == ("01-reverse", 1, "as the recipe says")
    assert attempt["accuracy"]["reverse"] < results["accuracy"][0][0] - 0.2 and attempt["train_tokens"] > 0
    assert results["cost"]["train_tokens"] == attempt["train_tokens"] + results["stages"][0]["train_tokens"]
    assert weights(out, "01-reverse") == weights(out, "00-base") != weights(out, "01-reverse.attempt-1")
    assert weights(out, "02-caesar") != weights(out, "00-base")
    report = (out / "report.md").read_text()
    assert (
        "## Attempts that failed gates" in report and "Attempts that failed gates" in (out / "report.html").read_text()
    )
    final = weights(out, "02-caesar")

    # A kill after the attempt was set aside, before the point was committed again: the same decision, the same weights.
    for point in ("01-reverse", "02-caesar"):
        shutil.rmtree(out / "points" / point)
        for file_of in (out / "evaluations").glob(f"{point}.[jc]*"):
            file_of.unlink()
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    assert weights(out, "02-caesar") == final and results_of(out)["sha256"] == results["sha256"]


def test_retry(tmp_path, cpt):
    """Half the learning rate still destroys it; a merge that is nearly the old model passes."""
    plan = {"then": "rollback", "retry": [{"learning_rate": 0.5}, {"merge": 0.99999}]}
    made = content(plan, {"below_base": 0.2})
    del made["stream"][1]
    file, out = write_recipe(tmp_path / "recipe.yaml", made), tmp_path / "run"
    assert cpt("check", file) == 0, cpt.output
    assert "if a critical gate fails after a task: rollback, after 2 more attempts; attempts are kept" in cpt.output
    assert cpt("run", file, "--out", out) == 0, cpt.output
    said = " ".join(cpt.output.split())
    assert "the task is trained again (learning rate x 0.5)" in said
    assert "the task is trained again (merged, the old model's share 0.99999)" in said
    assert "01-reverse took 3 attempts (below_base failed before)." in said
    results = results_of(out)
    assert [(each["attempt"], each["change"]) for each in results["attempts"]] == [
        (1, "as the recipe says"),
        (2, "learning rate x 0.5"),
    ]
    assert results["rolled_back"] == [] and results["verdict"]["verdict"] == "ship"
    merge = results["stages"][0]["merges"][-1]
    assert merge["strategy"] == "retry-merge" and merge["value"] == 0.99999
    first, second = (weights(out, f"01-reverse.attempt-{number}") for number in (1, 2))
    assert len({first, second, weights(out, "01-reverse"), weights(out, "00-base")}) == 4


def test_a_gate_that_was_broken_before_is_not_blamed_on_a_later_task(tmp_path, cpt):
    """reverse can never be learnt to 1 by two steps that destroy it; caesar is trained all the same."""
    file = write_recipe(tmp_path / "recipe.yaml", content("rollback", {"learning_accuracy/reverse": 1.0}))
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet") == 3, cpt.output
    results = results_of(tmp_path / "run")
    assert results["rolled_back"] == ["01-reverse"] and len(results["attempts"]) == 1
    assert results["verdict"]["failed"] == ["learning_accuracy/reverse"]


@pytest.mark.parametrize(
    ("on_failure", "gates", "said"),
    [
        ("stop", {}, "on_failure: no critical gate is set, so nothing can fail"),
        ("stop", {"forgetting": {"limit": 0.1, "tier": "tracked"}}, "no critical gate is set"),
        ("halt", {"forgetting": 0.1}, "must be one of stop, rollback, not 'halt'"),
        ({"then": "stop", "retry": [{}]}, {"forgetting": 0.1}, "needs one change: learning_rate"),
        ({"then": "stop", "retry": [{"learning_rate": 2}]}, {"forgetting": 0.1}, "less than 1"),
        ({"retry": [{"merge": 0.5}]}, {"forgetting": 0.1}, "on_failure.then"),
    ],
)
def test_mistakes(on_failure, gates, said, tmp_path):
    lines = mistakes(tmp_path, content(on_failure, gates))
    assert any(said in line for line in lines), lines
