"""`cpt sweep`: its cells, its mistakes, what is run again and what is not, tuning, SLURM, and the comparison at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

import cpt
from cpt.errors import RecipeErrors, UserError
from cpt.recipe import dump, load
from cpt.screen import QUIET, Screen
from cpt.sweeps.plan import make_plan
from cpt.sweeps.running import Outcome, place_of
from cpt.sweeps.sweep import listing, run_one, run_sweep
from helpers.compared import scores_of, write_run
from helpers.recipes import short, write_recipe

RATE = "stream.0.stages.0.args.learning_rate"


@pytest.fixture
def base(tmp_path):
    """A small recipe of two tasks."""
    return write_recipe(
        tmp_path / "base.yaml", short("sft", steps=1, tasks=("reverse", "caesar"), evaluate=4) | {"name": "base"}
    )


def sweep_file(folder: Path, **content) -> Path:
    file = folder / "sweep.yaml"
    with file.open("w") as stream:
        YAML(typ="safe").dump({"name": "mine"} | content, stream)
    return file


class Runner:
    """Instead of `cpt run`: writes the run directory of a cell whose accuracy is given by its label, and counts."""

    def __init__(self, accuracy=None, failing=()):
        self.accuracy, self.failing, self.calls = accuracy or {}, failing, []

    def __call__(self, cell, out, launcher=(), environment=None, verbose=False) -> Outcome:
        self.calls.append((cell.label, cell.seed))
        if cell.label in self.failing:
            return Outcome(1, 0.1, "cpt: failed: no luck")
        tasks = [task.task for task in cell.recipe.stream]
        chance = next((value for part, value in self.accuracy.items() if part in cell.label), 0.8)
        final = scores_of(dict.fromkeys(tasks, chance), 60, cell.seed)
        write_run(
            place_of(cell, out).run,
            final,
            name=cell.recipe.name,
            seed=cell.seed,
            tasks=tasks,
            resolved=dump(cell.recipe),
        )
        write_recipe(place_of(cell, out).run / "recipe.yaml", dump(cell.recipe))
        return Outcome(0, 0.1)


def test_the_cells(tmp_path, base):
    orders = [["reverse", "caesar"], ["caesar", "reverse"]]
    entry = {"recipe": "base.yaml", "name": "other", "set": {"strategies": [{"kind": "ema", "decay": 0.9}]}}
    file = sweep_file(tmp_path, recipes=["base.yaml", entry], seeds=[3, 1], orders=orders, values={RATE: [0.001, 0.01]})
    plan = make_plan(file, tmp_path / "out")
    assert len(plan.cells) == 2 * 2 * 2 * 2 and len({cell.name for cell in plan.cells}) == 16
    assert [cell.seed for cell in plan.cells] == [3] * 8 + [1] * 8, "seed by seed"
    assert plan.cells[0].label == plan.baseline == "base, learning_rate=0.001, order reverse caesar"
    turned = next(cell for cell in plan.cells if cell.label == "other, learning_rate=0.01, order caesar reverse")
    assert [task.task for task in turned.recipe.stream] == ["caesar", "reverse"]
    assert turned.recipe.strategies[0].kind == "ema" and turned.recipe.seed == 3
    by_name = {task.task: task for task in turned.recipe.stream}
    assert by_name["reverse"].stages[0].args["learning_rate"] == 0.01


def test_what_is_done_is_not_run_again(tmp_path, base):
    file = sweep_file(tmp_path, recipes=["base.yaml"], seeds=[0, 1], values={RATE: [0.001, 0.01]})
    plan, runner = make_plan(file, tmp_path / "out"), Runner({"0.001": 0.9, "0.01": 0.3})
    first = run_sweep(plan, Screen(QUIET), runner=runner)
    assert len(runner.calls) == 4 and not first.failed
    assert [group.label for group in first.comparison.groups] == [
        "base, learning_rate=0.001",
        "base, learning_rate=0.01",
    ]
    assert [group.seeds for group in first.comparison.groups] == [[0, 1], [0, 1]]
    assert first.comparison.pairs[0].verdict == "worse"
    record = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [cell["state"] for cell in record["cells"]] == ["done"] * 4
    assert all((tmp_path / "out" / f"compare.{kind}").is_file() for kind in ("html", "md", "csv", "json"))
    run_sweep(make_plan(file, tmp_path / "out"), Screen(QUIET), runner=runner)
    assert len(runner.calls) == 4, "all were done"
    changed = sweep_file(tmp_path, recipes=["base.yaml"], seeds=[0, 1], values={RATE: [0.001, 0.02]})
    run_sweep(make_plan(changed, tmp_path / "out"), Screen(QUIET), runner=runner)
    assert len(runner.calls) == 6, "what changed is another cell"


def test_a_cell_that_fails_stops_no_other(tmp_path, base, capsys):
    file = sweep_file(tmp_path, recipes=["base.yaml"], seeds=[0, 1], values={RATE: [0.001, 0.01, 0.1]})
    plan = make_plan(file, tmp_path / "out")
    runner = Runner(failing=["base, learning_rate=0.01"])
    result = run_sweep(plan, Screen(QUIET), runner=runner)
    assert len(runner.calls) == 6 and len(result.failed) == 2
    assert set(result.failed.values()) == {"cpt: failed: no luck"}
    assert "FAILED with exit code 1: cpt: failed: no luck" in capsys.readouterr().out
    assert len(result.comparison.groups) == 2, "the others are compared"
    assert listing(plan).count("to do") == 2
    runner.failing = ()
    assert not run_sweep(plan, Screen(QUIET), runner=runner).failed and len(runner.calls) == 8


def test_several_at_a_time(tmp_path, base):
    file = sweep_file(tmp_path, recipes=["base.yaml"], seeds=list(range(6)))
    runner = Runner()
    result = run_sweep(make_plan(file, tmp_path / "out"), Screen(QUIET), jobs=3, runner=runner)
    assert sorted(seed for _, seed in runner.calls) == list(range(6)) and not result.comparison.pairs


# -- mistakes ------------------------------------------------------------------------------------------------------------


def mistakes(file, out) -> list[str]:
    with pytest.raises(RecipeErrors) as caught:
        make_plan(file, out)
    return str(caught.value).replace(f"{file}:", "sweep:").splitlines()


def test_mistakes_of_all_cells_are_told_at_once(tmp_path, base):
    bad = write_recipe(
        tmp_path / "bad.yaml", short("sft", steps=1, tasks=("reverse", "caesar")) | {"name": "bad", "sed": 3}
    )
    file = sweep_file(tmp_path, recipes=["base.yaml", "bad.yaml", "quickstrt"], seeds=[0, 1], values={RATE: ["much"]})
    lines = mistakes(file, tmp_path / "out")
    assert len(lines) == 3, lines
    assert any(str(bad) in line and "sed" in line for line in lines)
    assert any(line.startswith("sweep:") and "did you mean quickstart" in line for line in lines)
    assert any(line.startswith("sweep:") and f"values.{RATE}" in line and "'much'" in line for line in lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content, line",
    [
        ({"recipes": ["base.yaml"], "seed": [1]}, "seed: "),
        ({"recipes": []}, "recipes: "),
        ({"recipes": ["base.yaml"], "seeds": [1, 1]}, "stands there twice"),
        (
            {"recipes": ["base.yaml"], "orders": [["reverse", "sort"]]},
            "orders: reverse, sort are not the tasks of base: reverse, caesar",
        ),
        ({"recipes": ["base.yaml"], "baseline": "bose"}, "baseline: is none of the recipes; did you mean base?"),
        (
            {"recipes": ["base.yaml", {"recipe": "base.yaml", "name": "twin"}]},
            "recipes: twin and base are the same run: remove one",
        ),
        (
            {"recipes": ["base.yaml"], "values": {"model.dtype": ["float32", "bfloat16"]}},
            "base, dtype=bfloat16 cannot be compared with base, dtype=float32: other model.dtype: 'bfloat16' here, "
            "'float32' there",
        ),
        ({"recipes": ["base.yaml", "quickstart"]}, "quickstart cannot be compared with base: other"),
        (
            {"recipes": ["base.yaml"], "set": {"stream.nothing.reward": "exact"}},
            "set.stream.nothing.reward: there is no stream.nothing",
        ),
        (
            {"recipes": ["base.yaml"], "tune": {"values": {RATE: [0.1]}, "by": "forgeting", "seeds": [9]}},
            "`by` must be a metric of a stream, not forgeting; did you mean forgetting?",
        ),
        (
            {"recipes": ["base.yaml"], "tune": {"values": {RATE: [0.1]}, "seeds": [0]}},
            "seed 0 is tuned with and judged with",
        ),
        (
            {"recipes": ["base.yaml"], "tune": {"values": {RATE: [0.1]}, "seeds": [9]}},
            "tune: values would be chosen on the stream that is judged",
        ),
        (
            {"recipes": ["base.yaml", "quickstart"], "tune": {"values": {RATE: [0.1]}, "seeds": [9]}},
            "exactly one recipe",
        ),
        (
            {"recipes": ["base.yaml"], "values": {RATE: [1]}, "tune": {"values": {RATE: [0.1]}, "seeds": [9]}},
            "do not go together",
        ),
    ],
)
def test_mistakes_in_the_file(tmp_path, base, content, line):
    lines = mistakes(sweep_file(tmp_path, **content), tmp_path / "out")
    assert any(line in each for each in lines), lines
    assert all(each.startswith("sweep:") for each in lines), lines


def test_rows_that_a_run_would_refuse_are_found_before_the_first_cell(tmp_path, base):
    file = sweep_file(tmp_path, recipes=["base.yaml"], values={"stream.reverse.data.name": ["reverse", "revers"]})
    (line,) = mistakes(file, tmp_path / "out")
    assert "revers" in line


# -- tuning --------------------------------------------------------------------------------------------------------------


def tuned_sweep(folder: Path, **more) -> Path:
    tune = {"set": {"data.seed": 1000}, "values": {RATE: [0.001, 0.01, 0.1]}, "seeds": [7, 8]} | more
    return sweep_file(folder, recipes=["base.yaml"], seeds=[0, 1], tune=tune)


@pytest.mark.parametrize("by, taken", [("average_accuracy", 0.01), ("forgetting", 0.1)])
def test_the_best_value_is_judged_on_the_other_stream(tmp_path, base, by, taken, monkeypatch):
    runner = Runner({"rate=0.001": 0.5, "rate=0.01": 0.9, "rate=0.1": 0.7, "tuned": 0.95})
    file = tuned_sweep(tmp_path, by=by)
    plan = make_plan(file, tmp_path / "out")
    if by == "forgetting":  # of what the runner writes, the one with fewest wrong answers to lose; given here
        means = {0.001: 0.4, 0.01: 0.3, 0.1: 0.1}
        monkeypatch.setattr("cpt.sweeps.plan.mean_of", lambda trial, plan: means[trial.values[RATE]])
    assert "then 8 to 9: the best values by" in listing(plan) or by == "forgetting"
    result = run_sweep(plan, Screen(QUIET), runner=runner)
    assert result.chosen["values"] == {RATE: taken}
    labels = [label for label, _ in runner.calls]
    assert labels[:6] == [f"tuning base, learning_rate={rate}" for rate in (0.001, 0.01, 0.1) for _ in range(2)]
    assert runner.calls[6:] == [("base", 0), ("base", 1)] + [(f"base tuned, learning_rate={taken}", s) for s in (0, 1)]
    assert [group.label for group in result.comparison.groups] == ["base", f"base tuned, learning_rate={taken}"]
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["tuned"]["values"] == {RATE: taken}
    tried = plan.trials[0].cells[0].recipe
    assert tried.data.seed == 1000 and plan.cells[0].recipe.data.seed == 0


def test_no_value_is_chosen_while_one_was_not_tried(tmp_path, base):
    plan = make_plan(tuned_sweep(tmp_path), tmp_path / "out")
    with pytest.raises(UserError, match="not all cells of the tuning are done"):
        run_sweep(plan, Screen(QUIET), runner=Runner(failing=["tuning base, learning_rate=0.1"]))
    with pytest.raises(UserError, match="--cell 8: has the values that are tuned: run the cells 0 to 5 first"):
        run_one(plan, 8, Screen(QUIET))
    with pytest.raises(UserError, match="--cell 99"):
        run_one(plan, 99, Screen(QUIET))


def test_the_best_values_may_be_the_recipes_own(tmp_path, base):
    own = load(base).stream[0].stages[0].args["learning_rate"]
    plan = make_plan(tuned_sweep(tmp_path, values={RATE: [own, 0.5]}), tmp_path / "out")
    result = run_sweep(plan, Screen(QUIET), runner=Runner({f"rate={json.dumps(own)}": 0.9, "rate=0.5": 0.2}))
    assert not result.comparison.pairs and len(plan.judged()) == 2


# -- the command ---------------------------------------------------------------------------------------------------------


def command(*words, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cpt", "sweep", *map(str, words)], capture_output=True, text=True, **options
    )


def test_the_shipped_sweep_lists_its_cells():
    done = command("quickstart-seeds", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("to do") + done.stdout.count("done  ") == 6 and "quickstart, seed 2" in done.stdout


def test_a_slurm_array(tmp_path, base):
    file = sweep_file(tmp_path, recipes=["base.yaml"], seeds=[0, 1, 2], slurm={"time": "02:00:00", "gres": "gpu:1"})
    done = command(file, "--out", tmp_path / "out", "--slurm")
    script = tmp_path / "out" / "sweep.sbatch"
    assert done.returncode == 0 and f"sbatch {script}" in done.stdout, done.stderr
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n#SBATCH --") and "#SBATCH --array=0-2\n" in text
    assert "#SBATCH --time=02:00:00\n" in text and "#SBATCH --gres=gpu:1\n" in text
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    done = command(tuned_sweep(tmp_path), "--out", tmp_path / "tuned", "--slurm")
    assert "--dependency=afterok:$job" in done.stdout
    assert "--array=0-5" in (tmp_path / "tuned" / "sweep-tuning.sbatch").read_text()
    assert "--array=6-9" in (tmp_path / "tuned" / "sweep-judged.sbatch").read_text()


def test_an_array_task_runs_its_cell_and_the_last_one_compares(tmp_path, base):
    """The script of the array, as SLURM starts it: two real runs of one step."""
    file = sweep_file(tmp_path, recipes=["base.yaml"], values={RATE: [0.001, 0.01]})
    assert command(file, "--out", tmp_path / "out", "--slurm", "--quiet").returncode == 0
    script, report = tmp_path / "out" / "sweep.sbatch", tmp_path / "out" / "compare.html"
    for number in (1, 0):
        assert not report.exists()
        env = os.environ | {"SLURM_ARRAY_TASK_ID": str(number)}
        done = subprocess.run(["bash", script], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert report.exists() and "base, learning_rate=0.01" in report.read_text()
    again = command(file, "--out", tmp_path / "out")
    assert again.returncode == 0 and "2 of 2 cells are done already" in again.stdout
    (tmp_path / "taken").write_text("")
    failing = sweep_file(tmp_path, recipes=["base.yaml"], launcher=[str(tmp_path / "taken")], seeds=[0, 1])
    done = command(failing, "--out", tmp_path / "other")
    assert done.returncode == 1 and "Permission denied" in done.stdout


def test_a_signal_goes_on_to_the_cell(tmp_path, base):
    """The cell (here: a program that sleeps) is asked to stop, the sweep says that the same command goes on."""
    sleeper = tmp_path / "sleeper.py"
    heard = "lambda *_: (open(sys.argv[0] + '.told', 'w'), sys.exit(143))"
    text = f"import signal, sys, time\nsignal.signal(signal.SIGTERM, {heard})\n"
    sleeper.write_text(f"{text}open(sys.argv[0] + '.begun', 'w')\ntime.sleep(60)\n")
    file = sweep_file(tmp_path, recipes=["base.yaml"], seeds=[0, 1], launcher=[sys.executable, str(sleeper)])
    words = [sys.executable, "-m", "cpt", "sweep", str(file), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(300):
        if Path(f"{sleeper}.begun").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143 and "the same command goes on" in errors
    assert Path(f"{sleeper}.told").exists()


def test_from_python(tmp_path, base, monkeypatch):
    monkeypatch.setattr(
        "cpt.api.sweeping.run_sweep", lambda plan, screen, jobs: run_sweep(plan, screen, jobs, Runner())
    )
    result = cpt.sweep({"name": "mine", "recipes": [str(base)], "seeds": [0, 1]}, out=tmp_path / "out", quiet=True)
    assert np.isfinite(result.comparison.groups[0].estimates["average_accuracy"].value)
