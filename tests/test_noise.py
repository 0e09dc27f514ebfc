"""The noise floor: the base evaluated again in other batches, its spread, and what gates and the report make of it."""

import json

import pytest

from cpt.evaluation import noise
from cpt.evaluation.suites.rows import Question, mixed
from cpt.report.view import noise_line
from helpers.recipes import mistakes, recipe, write_recipe


def answer(task, row, score, suite=None, text="a", mode="greedy"):
    return {"suite": suite, "task": task, "row": row, "score": score, "completion": text, "mode": mode}


FIRST = [answer("a", "0", 1.0), answer("a", "1", 1.0), answer("a", "2", 0.0), answer("b", "0", 1.0)]
FIRST += [answer("c", "0", 1.0, "general"), answer("d", "0", 0.0, "general"), answer("a", "0", 0.0, mode="sampled")]


def changed(**rows):
    """FIRST with other scores and texts of some rows of task a."""
    return [
        line | rows.get(f"r{line['row']}", {}) if line["task"] == "a" and line["mode"] == "greedy" else line
        for line in FIRST
    ]


def test_the_spread_is_of_each_task_and_suite():
    other = changed(r0={"score": 0.0, "completion": "x"}, r2={"completion": "y"})
    floor = noise.compared(FIRST, [FIRST, other[::-1]])
    assert floor["tasks"] == {
        "a": {"questions": 3, "changed": 1, "largest_difference": pytest.approx(1 / 3)},
        "b": {"questions": 1, "changed": 0, "largest_difference": 0.0},
    }
    assert floor["suites"] == {"general": {"questions": 2, "changed": 0, "largest_difference": 0.0}}
    assert (floor["repeats"], floor["answers"], floor["changed"]) == (2, 12, 2)
    assert [(each["row"], each["repeat"]) for each in noise.changed(FIRST, [FIRST, other])] == [("0", 2), ("2", 2)]
    assert noise_line({"noise_floor": floor}).endswith(
        "Scores moved by up to: a 0.333. Smaller differences are no finding."
    )


def test_a_change_of_two_answers_that_leaves_the_mean_is_counted():
    swapped = changed(r0={"score": 0.0, "completion": "x"}, r2={"score": 1.0, "completion": "y"})
    assert noise.compared(FIRST, [swapped])["tasks"]["a"] == {"questions": 3, "changed": 2, "largest_difference": 0.0}


def test_the_order_is_mixed_within_a_task():
    class Task:
        def __init__(self, name):
            self.name = name

    asked = [
        (Question(suite, Task(name), None, {"id": i}, "greedy", 0), None)
        for suite, name in ((None, "a"), ("s", "b"))
        for i in range(9)
    ]
    places = [(each.task.name, each.row["id"]) for each, _ in mixed(asked, 1)]
    assert places != [(each.task.name, each.row["id"]) for each, _ in asked] and sorted(places) == sorted(
        (each.task.name, each.row["id"]) for each, _ in asked
    )
    assert [name for name, _ in places] == ["a"] * 9 + ["b"] * 9
    assert mixed(asked, 0) is asked


def test_on_the_cpu_it_is_zero_and_said(tmp_path, cpt):
    """Two more evaluations change no answer; a resumed run does not measure again; a lost file is measured again."""
    content = recipe("sft", tasks=("reverse",), evaluate=9)
    content["evaluation"] |= {"noise_floor": 2, "suites": ["general"], "gates": {"learning_accuracy": 0.0}}
    file, out = write_recipe(tmp_path / "recipe.yaml", content), tmp_path / "run"
    words = ["run", file, "stream.0.stages.0.args.max_steps=1", "--out", out]
    assert cpt("check", *words[1:]) == 0 and "noise floor: the base 2 times more, in other batches" in cpt.output
    assert cpt(*words) == 0, cpt.output
    assert (
        "noise floor: the base was evaluated 2 more time(s) in other batches, and 0 of 1,018 answers changed"
        in cpt.output
    )
    results = json.loads((out / "results.json").read_text())
    assert results["noise_floor"]["answers"] == 2 * (9 + 500) and results["noise_floor"]["changed"] == 0
    assert results["gates"][0]["noise"] == 0.0
    assert "No score moved, so every difference is one of the weights." in (out / "report.md").read_text()
    record = json.loads((out / "noise_floor.json").read_text())
    assert record["changed"] == [] and record["rollout_tokens"] > 0
    spent = [*results["evaluation_cost"].values(), *results["stages"]]
    assert results["cost"]["rollout_tokens"] == sum(each["rollout_tokens"] for each in spent) + record["rollout_tokens"]
    assert cpt(*words) == 0 and "again (1 of 2)" not in cpt.output
    (out / "noise_floor.json").write_text("{}")
    assert cpt(*words) == 0, cpt.output
    assert json.loads((out / "noise_floor.json").read_text())["floor"] == record["floor"]


def test_mistakes(tmp_path):
    content = recipe("sft")
    content["evaluation"] |= {"noise_floor": -1}
    (line,) = mistakes(tmp_path, content)
    assert "evaluation.noise_floor: must be at least 0, not -1" in line or "noise_floor" in line
