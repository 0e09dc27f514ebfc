"""The strategy `merge`: weights against sums written out, the choice of a search, resume, whose rows are asked, mistakes."""

import json
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cpt.checks import all_checks, plan, preflight
from cpt.checks.findings import Findings
from cpt.errors import RecipeErrors
from cpt.recipe import Gate, load
from cpt.screen import QUIET, Screen
from cpt.strategies.merge.acceptance import broken_gates, choose
from cpt.strategies.merge.strategy import Merge
from helpers.merge_strategy import context, model, strategy, tensors, weights
from helpers.recipes import mistakes, short, write_recipe
from helpers.same_end import assert_same_end


@pytest.fixture
def points(tmp_path):
    """00-base, 01-one, and 02-two, which is new."""
    values = {"00-base": (0.0, 4.0), "01-one": (4.0, 4.0), "02-two": (8.0, 2.0)}
    return [model(tmp_path / name / "model", *value) for name, value in values.items()]


BY_HAND = [  # changes of the base: one (4, 0), two (8, -2)
    ({"method": "wise"}, [6.0, 3.0]),
    ({"method": "wise", "weight": 0.25}, [7.0, 2.5]),
    ({"method": "wise", "sources": "base", "weight": 0.25}, [6.0, 2.5]),
    ({"method": "wise", "sources": "all", "weight": 0.5}, [0.5 * 2 + 0.5 * 8, 0.5 * 4 + 0.5 * 2]),
    ({"method": "wise", "weight": "average"}, [6.0, 3.0]),
    ({"method": "soup"}, [6.0, 3.0]),
    ({"method": "soup", "sources": "all"}, [4.0, 10 / 3]),
    ({"method": "task-arithmetic", "scale": 0.5}, [6.0, 3.0]),
    ({"method": "task-arithmetic", "scale": 0.5, "sources": "base"}, [4.0, 3.0]),
    ({"method": "magmax"}, [4.0, 3.0]),
    ({"method": "magmax", "scale": 1.0, "sources": "all"}, [8.0, 2.0]),
    ({"method": "ties", "density": 1.0}, [6.0, 2.0]),
    ({"method": "ties", "density": 0.5, "sources": "base"}, [8.0, 4.0]),
    ({"method": "dare", "density": 1.0}, [12.0, 2.0]),
    ({"method": "breadcrumbs", "density": 1.0, "gamma": 0.0}, [12.0, 2.0]),
]


@pytest.mark.parametrize("spec, wanted", BY_HAND, ids=[str(spec) for spec, _ in BY_HAND])
def test_each_method_by_hand(spec, wanted, points, tmp_path):
    merge = strategy(**spec)
    folder, _, served = merge.after_task(*context(tmp_path, *points[:2]), points[2])
    assert weights(folder) == pytest.approx(wanted) and served == folder
    assert weights(points[2]) == [8.0, 2.0]


def test_the_first_task(points, tmp_path):
    """Interpolation meets the base; a change has no other to be joined with; two changes are wanting."""
    first = context(tmp_path, points[0])
    assert weights(strategy(method="wise").after_task(*first, points[2]).folder) == [4.0, 3.0]
    assert weights(strategy(method="task-arithmetic", scale=0.5).after_task(*first, points[2]).folder) == [4.0, 3.0]
    for spec in ({"method": "wise", "weight": "average"}, {"method": "model-stock"}):
        merge = strategy(**spec)
        folder, did, served = merge.after_task(*first, points[2])
        assert folder is None and served is None and did["merged"] is False
    assert strategy(adapter=True, method="wise").after_task(*first, points[2]).folder is None


def test_an_average_gives_every_task_the_same(tmp_path):
    base, merge = model(tmp_path / "00-base" / "model", 9.0), strategy(method="wise", weight="average")
    points = [base]
    for number, value in enumerate((1.0, 2.0, 6.0), start=1):
        live = model(tmp_path / f"live-{number}" / "model", value)
        points.append(merge.after_task(*context(tmp_path, *points), live).folder or live)
    assert weights(points[-1]) == pytest.approx([3.0])
    assert [merge.method.value(task) for task in (1, 2, 4)] == [0.0, 0.5, 0.75]
    by_task = strategy(method="wise", weight=(0.0, 0.25)).method
    assert [by_task.value(task) for task in (1, 2)] == [0.0, 0.25]
    assert not by_task.changes(0.0) and by_task.changes(0.25)


def test_chance_is_the_stage_s_own(points, tmp_path):
    """Another seed of the stage keeps other changes; the same keeps the same."""
    wide = [model(tmp_path / f"wide{n}" / "model", *[float(n)] * 64) for n in range(3)]
    seen = []
    for seed in (3, 3, 4):
        stage, services = context(tmp_path, *wide[:2])
        stage = replace(stage, seed=seed)
        seen.append(weights(strategy(method="dare", density=0.5).after_task(stage, services, wide[2]).folder))
    assert seen[0] == seen[1] != seen[2]


def test_what_is_not_fed_back_is_served(points, tmp_path):
    merge = strategy(method="wise", feed_back=False)
    folder, did, served = merge.after_task(*context(tmp_path, *points[:2]), points[2])
    assert folder is None and did["merged"]
    assert weights(served) == [6.0, 3.0]


# -- search --------------------------------------------------------------------------------------------------------------


def test_the_choice_by_hand():
    """The last of the best; without a gate the mean alone decides."""
    assert choose([{"a": 0.9, "b": 0.5}, {"a": 0.7, "b": 0.8}, {"a": 0.8, "b": 0.7}], [{"a": 0.9}], {}) == 2
    assert choose([{"a": 0.9, "b": 0.5}, {"a": 0.7, "b": 0.8}, {"a": 0.7, "b": 0.7}], [{"a": 0.9}], {}) == 1
    assert choose([{"a": 0.5}, {"a": 0.5}, {"a": 0.4}], [], {}) == 1
    assert (
        choose([{"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 0.3, "b": 0.2, "c": 0.1}], [{"a": 1}, {"a": 1, "b": 1}], {}) == 1
    )


def test_a_gate_that_the_unmerged_model_keeps_is_kept():
    rows, gates = [{"a": 0.9}], {"forgetting": Gate(limit=0.1), "held_out_drop": Gate(limit=0.0)}
    unmerged, better, best = {"a": 0.8, "b": 0.4}, {"a": 0.82, "b": 0.6}, {"a": 0.7, "b": 0.9}
    assert broken_gates(unmerged, rows, gates) == [] and broken_gates(best, rows, gates) == ["forgetting"]
    assert choose([unmerged, better, best], rows, gates) == 1
    assert choose([unmerged, best], rows, gates) == 0
    assert choose([{"a": 0.7, "b": 0.4}, best], rows, gates) == 1, "the unmerged model breaks it too"
    learning = {"learning_accuracy": Gate(limit=0.8)}
    assert broken_gates({"a": 0.0, "b": 0.6}, rows, learning) == ["learning_accuracy"], "(.9 + .6) / 2"
    assert broken_gates({"a": 0.0, "b": 0.7}, rows, learning) == []
    later = [{"a": 0.9}, {"a": 0.95, "b": 0.8}]
    assert broken_gates({"a": 0.9, "b": 0.6, "c": 1.0}, later, gates) == ["forgetting"], "(.05 + .2) / 2"


def judging(wanted: float, asked: list):
    """Old tasks are right by how near the first weight is to `wanted`."""

    def judge(folder):
        asked.append(weights(folder)[0])
        return {"task1": 1 - abs(asked[-1] - wanted) / 10, "task2": 0.5}, {"seconds": 1.0, "rollout_tokens": 10}

    return judge


def test_a_search_takes_the_best_and_keeps_the_curve(points, tmp_path):
    asked = []
    merge = strategy(method="wise", search=[1, 0, 0.5, 0.25])
    merge.load_state_dict({"rows": [{"task1": 0.9}]})
    folder, did, _ = merge.after_task(*context(tmp_path, *points[:2], judge=judging(5.9, asked)), points[2])
    assert asked == [8.0, 7.0, 6.0, 4.0] and weights(folder) == [6.0, 3.0]
    assert (did["value"], did["merged"], did["rollout_tokens"], did["points"]) == (0.5, True, 40, ["01-one"])
    assert [(each["value"], each["taken"]) for each in did["curve"]] == [
        (None, False), (0.25, False), (0.5, True), (1.0, False),
    ]  # fmt: skip
    assert merge.state_dict()["rows"][1] == did["curve"][2]["accuracy"]
    assert "on validation 0.745, unmerged 0.645" in did["told"]
    again = strategy(method="wise", search=[1, 0, 0.5, 0.25])
    again.load_state_dict({"rows": [{"task1": 0.9}]})
    folder, known, _ = again.after_task(*context(tmp_path, *points[:2]), points[2])
    assert weights(folder) == [6.0, 3.0]
    assert known["curve"] == did["curve"], "what was judged is not judged again"


def test_a_search_may_leave_the_model_as_it_is(points, tmp_path):
    asked = []
    merge = strategy(method="wise", search=[0.5])
    merge.load_state_dict({"rows": [{"task1": 0.9}]})
    folder, did, served = merge.after_task(*context(tmp_path, *points[:2], judge=judging(8, asked)), points[2])
    assert folder is None and served is None
    assert did["told"].startswith("not merged: no searched value of weight")
    assert merge.state_dict()["rows"][1]["task1"] == 1.0
    assert strategy(method="ties", search=[0.3, 2, 1, 0.9]).method.searched() == [2, 1, 0.9, 0.3]


# -- whole runs ----------------------------------------------------------------------------------------------------------

SEARCH = {"kind": "merge", "method": "wise", "search": [0.25, 0.5]}


def with_merge(spec: dict, steps: int = 3, validation: int = 0, **more) -> dict:
    content = short("sft", steps=steps, **more) | {"strategies": [spec]}
    for task in content["stream"]:
        task["data"]["validation"] = validation
    content["evaluation"]["gates"] = {"forgetting": 0.5}
    return content


def test_half_way_to_the_point_before(cpt, tmp_path):
    """Served alone, and fed back: the same first merge, from which the second task then starts."""
    spec = {"kind": "merge", "method": "wise", "weight": 0.5}
    for name, feed_back in (("served", False), ("fed", True)):
        file = write_recipe(tmp_path / f"{name}.yaml", with_merge(spec | {"feed_back": feed_back}, evaluate=4))
        assert cpt("run", file, "--out", tmp_path / name, "--quiet") == 0, cpt.output
    run = tmp_path / "served"
    base, one, two = (tensors(run, point) for point in ("00-base", "01-reverse", "02-caesar"))
    for old, new, point in ((base, one, "01-reverse"), (one, two, "02-caesar")):
        merged = tensors(run, point, "served")
        assert merged.keys() == new.keys()
        for name, tensor in merged.items():
            torch.testing.assert_close(tensor, (old[name] + new[name]) / 2, atol=1e-7, rtol=1e-6)
    fed = tensors(tmp_path / "fed", "01-reverse")
    assert all(torch.equal(fed[name], tensor) for name, tensor in tensors(run, "01-reverse", "served").items())
    assert not (tmp_path / "fed" / "points" / "01-reverse" / "served").exists()
    second = tensors(tmp_path / "fed", "02-caesar")
    assert not all(torch.equal(second[name], two[name]) for name in two)
    results = json.loads((run / "results.json").read_text())
    (merge,) = results["stages"][1]["merges"]
    assert merge["told"] == "wise, weight 0.5, with 01-reverse"
    assert results["cost"]["merges"]["02-caesar/0-merge"]["seconds"] == merge["seconds"]


def test_a_killed_search_goes_on(cpt, tmp_path):
    file = write_recipe(tmp_path / "recipe.yaml", with_merge(SEARCH, validation=4, evaluate=4))
    assert cpt("run", file, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    places = (("cpt.strategies.merge.strategy.merge", 2), ("cpt.loop.tasks.commit", 2))
    for number, (place, call) in enumerate(places):
        out = tmp_path / f"killed-{number}"
        assert cpt("run", file, "--out", out, "--quiet", at={"place": place, "call": call}) == -signal.SIGKILL
        assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
        assert_same_end(out, tmp_path / "alone")
    (merge,) = json.loads((tmp_path / "alone" / "results.json").read_text())["stages"][1]["merges"]
    assert [each["value"] for each in merge["curve"]] == [None, 0.25, 0.5]
    assert all(list(each["accuracy"]) == ["reverse", "caesar"] for each in merge["curve"])


def test_a_search_asks_validation_rows_alone(tmp_path, monkeypatch):
    """Every prompt that an engine is given while a search judges, against the rows of both splits."""
    from cpt.data import encoding
    from cpt.data.stream import load_stream
    from cpt.loop import run
    from cpt.rollouts.transformers import TransformersEngine

    recipe = load(write_recipe(tmp_path / "recipe.yaml", with_merge(SEARCH, steps=1, validation=6, evaluate=6)))
    asked, searching = set(), []
    search, generate = Merge._search, TransformersEngine.generate

    def hear_search(self, *arguments):
        searching.append(True)
        found = search(self, *arguments)
        searching.clear()
        return found

    def hear_generate(self, prompts, *arguments):
        asked.update(tuple(prompt) for prompt in prompts if searching)
        return generate(self, prompts, *arguments)

    monkeypatch.setattr(Merge, "_search", hear_search)
    monkeypatch.setattr(TransformersEngine, "generate", hear_generate)
    run(recipe, tmp_path / "run", Screen(QUIET))
    base, stream = tmp_path / "run/points/00-base/model", load_stream(recipe, {})
    model = encoding.load(base, base, recipe)

    def encoded(split: str) -> set[tuple]:
        asked = [(model.of(task.spec), row) for task in stream.tasks for row in getattr(task, split)]
        return {tuple(ids) for ids in encoding.prompts(asked)}

    assert asked == encoded("validation") and len(asked) == 12
    assert not asked & encoded("eval")


def test_adapters_are_merged_as_adapters(cpt, tmp_path):
    content = with_merge({"kind": "merge", "method": "wise", "feed_back": False}, evaluate=4)
    content["adapter"] = {"kind": "lora", "r": 2, "target_modules": "all-linear"}
    assert cpt("run", write_recipe(tmp_path / "r.yaml", content), "--out", tmp_path / "run", "--quiet") == 0, cpt.output
    assert not (tmp_path / "run" / "points" / "01-reverse" / "served").exists()
    one, two, merged = (
        tensors(tmp_path / "run", *place) for place in (("01-reverse",), ("02-caesar",), ("02-caesar", "served"))
    )
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2, atol=1e-7, rtol=1e-6)
    assert (tmp_path / "run" / "final" / "adapter_config.json").is_file()


# -- mistakes and the plan -----------------------------------------------------------------------------------------------

WRONG = {
    "another number of tasks": ({"method": "ties", "scale": [1, 0.5, 0.3]}, "has 3 values, and the stream 2 tasks"),
    "no method": ({"method": "linear"}, "must be one of soup, wise, slerp"),
    "weight of soup": (
        {"method": "soup", "weight": 0.5},
        "weight is an option of wise, slerp, fisher, aim, not of soup: remove it",
    ),
    "scale of wise": ({"method": "wise", "scale": 0.5}, "not of wise: remove it"),
    "weight": ({"method": "wise", "weight": 1.5}, "less than or equal to 1"),
    "weight in words": (
        {"method": "wise", "weight": "mean"},
        "must be a number or a list or one of average, not 'mean'",
    ),
    "average of the base": ({"method": "wise", "weight": "average", "sources": "base"}, "it needs `sources: previous`"),
    "slerp of all": ({"method": "slerp", "sources": "all"}, "slerp interpolates between two models"),
    "stock of one": ({"method": "model-stock", "sources": "base"}, "model-stock needs two models besides the base"),
    "della": (
        {"method": "della", "density": 0.9},
        "density 0.9, epsilon 0.15: density - epsilon and density + epsilon",
    ),
    "search of nothing": ({"method": "soup", "search": [0.5]}, "soup has neither"),
    "search and weight": ({"method": "wise", "search": [0.5], "weight": 0.5}, "weight, which is given too"),
    "search outside": ({"method": "wise", "search": [0.5, 2]}, "the old model's share, from 0 to 1"),
    "search twice": ({"method": "wise", "search": [0.5, 0.5]}, "a value appears twice"),
    "empty search": ({"method": "wise", "search": []}, "must not be empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name, tmp_path):
    spec, said = WRONG[name]
    (line,) = mistakes(tmp_path, with_merge({"kind": "merge"} | spec))
    assert said in line and "strategies.0" in line


@pytest.mark.parametrize(
    "specs, adapter, said",
    [
        (
            [{"kind": "merge", "method": "ties"}],
            True,
            "strategies.0.method: ties works on changes of the untouched model",
        ),
        ([{"kind": "merge", "method": "wise", "sources": "base"}], True, "`sources` must be previous or all"),
        ([{"kind": "ema"}, {"kind": "merge", "method": "wise"}], False, "strategies.0.serve: the merge is served"),
        ([{"kind": "merge", "method": "wise"}, {"kind": "mcl"}], False, "strategies.1.kind: its average would replace"),
    ],
)
def test_what_does_not_go_together(specs, adapter, said, tmp_path):
    content = with_merge({}) | {"strategies": specs} | ({"adapter": {"kind": "lora", "r": 2}} if adapter else {})
    (line,) = mistakes(tmp_path, content)
    assert said in line


def test_an_average_that_is_fed_back_can_be_merged(tmp_path):
    content = with_merge({}) | {"strategies": [{"kind": "ema", "feed_back": True}, {"kind": "merge", "method": "wise"}]}
    assert len(load(write_recipe(tmp_path / "recipe.yaml", content)).strategies) == 2


def test_a_search_needs_validation_rows(tmp_path):
    recipe = load(write_recipe(tmp_path / "recipe.yaml", with_merge(SEARCH)))
    with pytest.raises(RecipeErrors) as found:
        all_checks.check(recipe, tmp_path / "run")
    lines = str(found.value).splitlines()
    assert lines[0].startswith(
        "stream.reverse.data.validation: no rows, but strategies.0 searches on the validation rows"
    )
    assert len(lines) == 2


def test_validation_rows_that_only_loading_shows_are_looked_at_before_training(tmp_path):
    recipe = load(write_recipe(tmp_path / "recipe.yaml", with_merge(SEARCH, validation=8)))
    task = SimpleNamespace(name="hub", validation=[], spec=recipe.stream[0])
    for rows, said in (
        ([], "no rows, but"),
        ([{"id": "hub/validation/0", "prompt": "x"}], "row hub/validation/0 has no"),
    ):
        task.validation, findings = rows, Findings()
        preflight.check_validation(recipe, SimpleNamespace(tasks=(task,)), findings)
        (problem,) = findings.problems
        assert problem.key == "stream.hub.data.validation" and problem.message.startswith(said)


def test_the_plan_says_it(tmp_path):
    recipe = load(write_recipe(tmp_path / "recipe.yaml", with_merge(SEARCH, validation=8)))
    told = plan.describe(recipe, tmp_path / "run")
    assert (
        "  strategies\n    merge, method wise, search 0.25 0.5\n    a search evaluates on the validation rows" in told
    )
    assert "16 questions for each model" in told
