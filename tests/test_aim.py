"""The strategy `merge` with `method: aim`: the formula from a run's files, whose rows are kept, resume, mistakes."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cpt.checks.findings import Findings
from cpt.checks.tokens import TokenChecks
from cpt.data.memory import kept, sft_forms
from cpt.data.stream import load_stream
from cpt.recipe import dump, load
from cpt.strategies.merge.aim import weights_of_changes
from helpers.merge_strategy import context, model, strategy, tensors, weights
from helpers.recipes import ARGS, mistakes, short, write_recipe
from helpers.same_end import assert_same_end

MEMORY = {"rows": 24, "args": ARGS["sft"] | {"max_steps": 6, "save_steps": 2}}
AIM = {"kind": "merge", "method": "aim", "memory": MEMORY}


def with_aim(spec: dict, **more) -> dict:
    return short("sft", evaluate=4, **more) | {"strategies": [AIM | spec]}


# -- the formula ---------------------------------------------------------------------------------------------------------


def rehearsing(tmp_path, asked: list, *values: float):
    """A second model of these values."""

    def rehearse(stage, services, memory, name, source: Path, folder: Path) -> dict:
        asked.append((name, source))
        model(folder / "model", *values)
        return {"rows": 8, "steps": 2, "seconds": 1.5, "train_tokens": 30}

    return rehearse


@pytest.mark.parametrize(
    "spec, wanted, start",
    [
        ({}, [8.0, 0.0], "previous"),  # 4 4 + .5 (4 -2) + .5 (4 -6)
        ({"weight": 0.25}, [8.0, 1.0], "previous"),
        ({"weight": [0.5, 0.75]}, [8.0, -1.0], "previous"),
        ({"weight": 0.25, "memory": MEMORY | {"start": "new"}}, [7.0, 1.5], "new"),  # 4 4 + .75 (4 -2) + .25 (0 -4)
    ],
)
def test_by_hand(spec, wanted, start, tmp_path):
    base, old, new = (
        model(tmp_path / name / "model", *value)
        for name, value in {"00-base": (0, 4.0), "01-one": (4.0, 4.0), "02-two": (8.0, 2.0)}.items()
    )
    merge, asked = strategy(method="aim", **{"memory": MEMORY} | spec), []
    stage, services = context(tmp_path, base, old)
    services = replace(services, rehearse=rehearsing(tmp_path, asked, 8.0, -2.0))
    folder, did, _ = merge.after_task(stage, services, new)
    assert weights(folder) == pytest.approx(wanted)
    assert asked == [("0-merge", {"previous": old, "new": new}[start])]
    assert did["points"] == ["01-one"] and did["memory"] == {"rows": 8, "steps": 2}
    assert did["train_tokens"] == 30 and did["seconds"] >= 1.5


def test_nothing_is_trained_that_is_not_merged(tmp_path):
    base, old, new = (model(tmp_path / name / "model", 1.0) for name in ("00-base", "01-one", "02-two"))
    merge = strategy(method="aim", memory=MEMORY, weight=[0.5, 0])
    for points in ((base,), (base, old)):
        folder, did, _ = merge.after_task(*context(tmp_path, *points), new)
        assert folder is None and did["told"] == "not merged: there is nothing to merge with yet"
    assert weights_of_changes(0, "new") == [1, 0]


def test_a_search_trains_once(tmp_path):
    base, old, new = (
        model(tmp_path / name / "model", value)
        for name, value in {"00-base": 0.0, "01-one": 4.0, "02-two": 8.0}.items()
    )
    asked, judged = [], []

    def judge(folder: Path):
        judged.append(weights(folder)[0])
        return {"task1": 1 - abs(judged[-1] - 6) / 10, "task2": 1.0}, {"seconds": 0.1, "rollout_tokens": 3}

    merge = strategy(method="aim", memory=MEMORY, search=[1.0, 0.5, 0.25])
    merge.load_state_dict({"rows": [{"task1": 0.9}]})
    stage, services = context(tmp_path, base, old, judge=judge)
    services = replace(services, rehearse=rehearsing(tmp_path, asked, 4.0))
    folder, did, _ = merge.after_task(stage, services, new)
    assert weights(folder) == [6.0]
    assert judged == [8.0, 7.0, 6.0, 4.0] and len(asked) == 1
    assert did["seconds"] >= 1.5 and did["rollout_tokens"] == 12


# -- whole runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_from_its_files_and_after_kills(cpt, tmp_path):
    """The merge is half-way between the new model and the memory's, read before the work goes; kills change nothing."""
    file = write_recipe(tmp_path / "recipe.yaml", with_aim({}))
    assert cpt("run", file, "--out", tmp_path / "alone", "--quiet") == 0, cpt.output
    out = tmp_path / "killed"
    inside = {"place": "cpt.stages.metrics_logger.MetricsLogger.on_step_end", "call": 3 + 3 + 5}
    assert cpt("run", file, "--out", out, "--quiet", at=inside) == -signal.SIGKILL
    work = out / "points" / ".02-caesar.work"
    assert (work / "0-merge" / "memory" / "trainer" / "checkpoint-4" / "DONE").is_file()
    after = {"place": "cpt.rundir.RunDir.commit", "call": 1}
    assert cpt("run", file, "--out", out, "--quiet", at=after) == -signal.SIGKILL
    memory, new = (load_file(work / name / "model/model.safetensors") for name in ("0-merge/memory", "0-sft"))
    assert not (work / "0-merge" / "memory" / "trainer").exists()
    never = {"place": "cpt.stages.rehearsal.train", "call": 1}
    assert cpt("run", file, "--out", out, "--quiet", at=never) == 0, cpt.output
    assert_same_end(out, tmp_path / "alone")
    old = tensors(out, "01-reverse")
    for name, merged in tensors(out, "02-caesar").items():
        wanted = old[name] + 0.5 * (new[name] - old[name]) + 0.5 * (memory[name] - old[name])
        torch.testing.assert_close(merged, wanted, atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(memory[name], old[name]) for name in old)
    results = json.loads((out / "results.json").read_text())
    first, second = (stage["merges"][0] for stage in results["stages"])
    assert not first["merged"] and "train_tokens" not in first and second["memory"] == {"rows": 24, "steps": 6}
    assert second["told"] == "aim, weight 0.5, with a model trained for 6 steps on 24 rows of earlier tasks"
    cost = results["cost"]
    assert cost["merges"]["02-caesar/0-merge"]["train_tokens"] == second["train_tokens"] > 0
    assert cost["train_tokens"] == second["train_tokens"] + sum(stage["train_tokens"] for stage in results["stages"])
    report = (out / "report.html").read_text()
    assert "0-merge-memory" in report and "6 steps on 24 rows" in report and "not finished" not in report
    assert not list(out.glob("points/.*"))


# -- the rows ------------------------------------------------------------------------------------------------------------


def test_rows_kept_are_training_rows_of_earlier_tasks(tmp_path):
    recipe = load(write_recipe(tmp_path / "recipe.yaml", with_aim({}, tasks=("reverse", "caesar", "sort"))))
    tasks = load_stream(recipe, {}).tasks
    found = [(task.name, row) for task, row, _ in sft_forms(tasks[:2], 0, 24, "key")]
    assert [name for name, _ in found] == ["reverse"] * 24 + ["caesar"] * 24
    for task in tasks[:2]:
        mine = [row["id"] for name, row in found if name == task.name]
        assert len(set(mine)) == 24 and set(mine) <= {row["id"] for row in task.train}
        assert mine != [row["id"] for row in task.train[:24]]
    assert kept(tasks[0], 1, 0, 24) == [row for name, row in found if name == "reverse"]
    assert kept(tasks[0], 1, 1, 24) != kept(tasks[0], 1, 0, 24), "another data.seed, other rows"
    assert len(kept(tasks[0], 1, 0, 999)) == len(tasks[0].train)


def test_rows_that_cannot_be_trained_on_are_refused_before_training(tmp_path):
    from cpt import tiny
    from cpt.data import encoding

    recipe = load(write_recipe(tmp_path / "recipe.yaml", with_aim({})))
    model = encoding.load(tiny.path(0), tiny.path(0), recipe)
    spec = recipe.stream[0]
    task = SimpleNamespace(name="one", spec=spec, train=[{"id": "one/7", "prompt": "reverseab", "answer": "ba"}])
    stream = SimpleNamespace(tasks=(task, SimpleNamespace(name="last", spec=spec, train=[])))

    def found() -> list[str]:
        findings = Findings()
        TokenChecks(recipe, model, None, None, findings).check_memories(stream.tasks)
        return [str(problem) for problem in findings.problems]

    (line,) = found()
    assert line.startswith("strategies.0.memory: row one/7, kept of stream.one, has answer, id, prompt;")
    task.train[0] = task.train[0] | {"demonstration": "ba" * 999}
    (line,) = found()
    assert "args.max_length of strategies.0.memory is not set, and the default of SFTConfig is 1024" in line
    task.train[0]["demonstration"] = "ba"
    assert not found()
    other = SimpleNamespace(
        name="two", spec=spec, train=[{"id": "two/1", "messages": [{"role": "assistant", "content": "ba"}]}]
    )
    stream.tasks = (task, other, stream.tasks[1])
    assert not found(), "conversations beside prompts"


# -- mistakes ------------------------------------------------------------------------------------------------------------

WRONG = {
    "no memory": ({"memory": None}, "aim trains a second model on rows kept of the earlier tasks: give `memory`"),
    "of another method": ({"method": "wise"}, "memory is an option of aim, not of wise: remove it"),
    "sources": ({"sources": "all"}, "`sources` must be previous"),
    "stage": ({"after": "stage"}, "set `after: task`"),
    "adapters": ({"adapters": "weights", "feed_back": False}, "remove `adapters: weights`"),
    "average": ({"weight": "average"}, "give a number, or leave it out"),
    "scale": ({"scale": 0.5}, "not of aim: remove it"),
    "search": ({"search": [2]}, "aim needs the memory's share, from 0 to 1"),
    "number of tasks": ({"weight": [0.5]}, "has 1 values, and the stream 2 tasks"),
    "rows": ({"memory": {"rows": 0}}, "strategies.0.memory.rows"),
    "key": ({"memory": {"row": 8}}, "strategies.0.memory.row: unknown key; did you mean rows?"),
    "argument": (
        {"memory": {"args": {"learning_rat": 1e-3}}},
        "strategies.0.memory.args.learning_rat: SFTConfig has no such argument; did you mean learning_rate?",
    ),
    "refused argument": ({"memory": {"args": {"seed": 3}}}, "strategies.0.memory.args.seed: is not supported"),
    "type": ({"memory": {"args": {"max_steps": "many"}}}, "strategies.0.memory.args.max_steps"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name, tmp_path):
    spec, said = WRONG[name]
    (line,) = mistakes(tmp_path, with_aim(spec))
    assert said in line and "strategies.0" in line


def test_adapters_are_refused(tmp_path):
    (line,) = mistakes(tmp_path, with_aim({}) | {"adapter": {"kind": "lora", "r": 2}})
    assert "strategies.0.method: aim merges changes of the point before the task" in line


def test_the_memory_has_the_defaults_of_sft(tmp_path):
    content = with_aim({}) | {"defaults": {"sft": {"args": {"adam_beta2": 0.9, "max_steps": 99}}}}
    recipe = load(write_recipe(tmp_path / "recipe.yaml", content))
    args = recipe.strategies[0].memory.args
    assert args["adam_beta2"] == 0.9 and args["max_steps"] == 6
    assert load(write_recipe(tmp_path / "stored.yaml", dump(recipe))) == recipe
