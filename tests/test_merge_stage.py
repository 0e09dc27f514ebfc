"""The strategy `merge` after each stage: what it merges with, where the merge goes, and a run that is killed around it."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from cpt.evaluation.results_file import costs
from cpt.files import replace_folder
from cpt.recipe import load
from cpt.report.merges import merges
from cpt.report.merges import place_of as told_place
from cpt.screen import QUIET, Screen
from helpers.merge_strategy import context, model, strategy, weights
from helpers.recipes import mistakes, short, write_recipe
from helpers.same_end import assert_same_end

HALF = {"kind": "merge", "method": "wise", "after": "stage"}


def stage_context(tmp_path, points, stages=(), judge=None):
    """A stage after `points` and the task's earlier `stages`; its model is not there yet."""
    stage, services = context(tmp_path, *points, judge=judge)
    name = f"{len(stages)}-sft"
    target = tmp_path / f"work-{len(points)}" / name / "model"
    return replace(stage, stages=stages, name=name, target=target), services


BY_HAND = [  # the base (0, 4), task one (4, 4), the task's first stage (6, 0), and the new model (8, 2)
    ({"method": "wise"}, [7.0, 1.0]),
    ({"method": "wise", "sources": "base", "weight": 0.25}, [6.0, 2.5]),
    ({"method": "soup", "sources": "all"}, [4.5, 2.5]),
    ({"method": "task-arithmetic", "scale": 0.5}, [7.0, 1.0]),
    ({"method": "magmax", "sources": "all", "scale": 1.0}, [8.0, 0.0]),
]


@pytest.mark.parametrize("spec, wanted", BY_HAND, ids=[str(spec) for spec, _ in BY_HAND])
def test_a_second_stage_by_hand(spec, wanted, tmp_path):
    points = [model(tmp_path / "00-base" / "model", 0.0, 4.0), model(tmp_path / "01-one" / "model", 4.0, 4.0)]
    first = model(tmp_path / "work-2" / "0-sft" / "model", 6.0, 0.0)
    stage, services = stage_context(tmp_path, points, (first,))
    model(stage.target, 8.0, 2.0)
    merge = strategy(after="stage", **spec)
    folder, done, _ = merge.after_stage(stage, services, None)
    assert weights(folder) == pytest.approx(wanted) and folder.is_relative_to(stage.target.parent)
    assert done["after"] == "stage" and done["merged"]
    assert merge.after_task(stage, services, stage.target) == (None, None, None)


def test_the_first_stage_of_the_first_task(tmp_path):
    stage, services = stage_context(tmp_path, [model(tmp_path / "00-base" / "model", 0.0, 4.0)])
    model(stage.target, 8.0, 2.0)
    assert weights(strategy(after="stage", method="wise").after_stage(stage, services, None).folder) == [4.0, 3.0]
    assert strategy(after="stage", method="wise", adapter=True).after_stage(stage, services, None).folder is None
    second, given = stage_context(
        tmp_path, [*stage.points], (stage.target,)
    )  # no adapter either: neither stage trained anything
    model(second.target, 1.0, 1.0)
    assert strategy(after="stage", method="wise", adapter=True).after_stage(second, given, None).folder is None
    assert strategy(method="wise").after_stage(stage, services, None) == (None, None, None)


def test_a_search_keeps_one_row_a_task(tmp_path):
    """The second stage's row takes the place of the first one's: gates compare tasks, not stages."""
    points = [model(tmp_path / "00-base" / "model", 0.0), model(tmp_path / "01-one" / "model", 4.0)]
    stage, services = stage_context(tmp_path, points)
    model(stage.target, 8.0)
    merge = strategy(after="stage", method="wise", search=[0.5])
    merge.load_state_dict({"rows": [{"task1": 0.9}]})

    def judge(folder):
        return {"task1": 1 - weights(folder)[0] / 10, "task2": 0.5}, {"seconds": 1.0, "rollout_tokens": 10}

    services = replace(services, evaluate_on_validation=judge)
    replace_folder(stage.target, merge.after_stage(stage, services, None).folder)
    assert weights(stage.target) == [6.0] and len(merge.rows) == 2
    second, given = stage_context(tmp_path, points, (stage.target,), judge)
    model(second.target, 2.0)
    assert merge.after_stage(second, given, None).folder is None, "half-way back to 6 the old task is worse"
    assert merge.rows == [{"task1": 0.9}, {"task1": 0.8, "task2": 0.5}]


def test_a_search_with_nothing_to_merge_yet_has_its_row(tmp_path):
    """An adapter's first task: later gates look at every task's row by its place."""
    asked = []

    def judge(folder):
        asked.append(folder)
        return {"task1": 0.7}, {"seconds": 1.0, "rollout_tokens": 10}

    stage, services = context(tmp_path, model(tmp_path / "00-base" / "model", 0.0), judge=judge)
    merge = strategy(adapter=True, method="wise", search=[0.25, 0.5])
    folder, did, served = merge.after_task(stage, services, model(stage.target, 8.0))
    assert folder is None and served is None
    assert asked == [stage.target] and merge.rows == [{"task1": 0.7}]
    assert (did["told"], did["rollout_tokens"]) == ("not merged: there is nothing to merge with yet", 10)


def staged(spec: dict, steps: int = 2) -> dict:
    return short("sft", "sft", steps=steps, evaluate=4) | {"strategies": [spec]}


def test_each_stage_starts_from_the_merge_before_it(tmp_path, monkeypatch):
    """A whole run: the means written out, stage after stage; the points are the last merges, and the record says it."""
    from cpt.loop import run, tasks

    seen = []

    def hear(target, by):
        seen.append([load_file(folder / "model.safetensors") for folder in (target, by)])
        replace_folder(target, by)

    monkeypatch.setattr(tasks, "replace_folder", hear)
    recipe = load(write_recipe(tmp_path / "recipe.yaml", staged(HALF)))
    results = run(recipe, tmp_path / "run", Screen(QUIET))
    points = [load_file(file) for file in sorted((tmp_path / "run" / "points").glob("*/model/model.safetensors"))]
    before = points[0]
    for trained, merged in seen:
        assert not torch.equal(trained["model.norm.weight"], before["model.norm.weight"])
        for name, tensor in merged.items():
            torch.testing.assert_close(tensor, (before[name] + trained[name]) / 2, atol=1e-7, rtol=1e-6)
        before = merged
    assert len(seen) == 4
    for point, (_, merged) in zip(points[1:], seen[1::2], strict=True):
        assert all(torch.equal(point[name], tensor) for name, tensor in merged.items())
    told = [merge["told"] for stage in results["stages"] for merge in stage["merges"]]
    assert told == [f"wise, weight 0.5, with {old}" for old in ("00-base", "0-sft", "01-reverse", "0-sft")]
    assert list(results["cost"]["merges"])[:2] == ["01-reverse/0-sft/0-merge", "01-reverse/1-sft/0-merge"]
    shown = merges(results)
    assert shown["each"] == "stage" and shown["lines"][1].startswith("reverse 1-sft 0-merge: wise")
    assert not list((tmp_path / "run" / "points").glob("*/served"))


def test_killed_around_a_merge_it_is_made_once(cpt, tmp_path):
    search = HALF | {"search": [0.25, 0.5]}
    content = staged(search)
    for task in content["stream"]:
        task["data"]["validation"] = 4
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    stages = json.loads((tmp_path / "alone" / "results.json").read_text())["stages"]
    assert all(len(stage["merges"]) == 1 for stage in stages) and len(stages) == 4
    places = (  # (place, call, when): while it is judged, between merge and commit, after a stage's commit
        {"place": "cpt.strategies.merge.strategy.merge", "call": 2},
        {"place": "cpt.rundir.RunDir.commit_stage", "call": 2},
        {"place": "cpt.rundir.RunDir.commit_stage", "call": 2, "when": "after"},
    )
    for number, at in enumerate(places):
        out = tmp_path / f"killed-{number}"
        assert cpt("run", file, "--out", out, "--quiet", at=at) == -signal.SIGKILL
        assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
        assert_same_end(out, tmp_path / "alone")


WRONG = {
    "served alone": (
        [HALF | {"feed_back": False}],
        "strategies.0: with `after: stage` the next stage starts from the merge",
    ),
    "average": (
        [HALF | {"weight": "average"}],
        "strategies.0: `weight: average` gives each task an equal share when it ends",
    ),
    "ema before": ([{"kind": "ema", "feed_back": True}, HALF], "strategies.0.kind: its average at the end of a task"),
    "ema served": ([{"kind": "ema"}, HALF], "strategies.0.kind: its average at the end of a task"),
    "mcl after": ([HALF, {"kind": "mcl"}], "strategies.1.kind: its average at the end of a task"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name, tmp_path):
    specs, said = WRONG[name]
    (line,) = mistakes(tmp_path, staged({}) | {"strategies": specs})
    assert said in line


def test_an_average_that_only_follows_may_stand_beside(tmp_path):
    follows = {"kind": "ema", "serve": "live"}
    assert load(write_recipe(tmp_path / "recipe.yaml", staged({}) | {"strategies": [follows, HALF]}))


def test_an_older_record_is_of_a_task():
    stage = {"task": "reverse", "point": "01-reverse", "stage": "0-sft", "seconds": 1, "train_tokens": 2}
    merge = {"strategy": "0-merge", "seconds": 1, "rollout_tokens": 0}
    stage |= {"rollout_tokens": 0, "peak_memory_bytes": 1, "merges": [merge]}
    assert list(costs([stage], {})["merges"]) == ["01-reverse/0-merge"] and told_place(stage, merge) == "reverse"
