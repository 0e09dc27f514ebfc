"""Trackers: one run of theirs for a stream, steps that never go back, also after a resume; the report while a run lasts."""

import json
from types import SimpleNamespace
from typing import ClassVar

import pytest

from cpt import following, trackers
from cpt.following import Following
from cpt.recipe import load
from cpt.rundir import RunDir
from cpt.trackers import TRACKERS, Tracker, missing
from helpers.recipes import mistakes, short, write_recipe


class Recorded(Tracker):
    """Writes down what it is told; all of one id together."""

    runs: ClassVar[dict[str, list]] = {}

    def __init__(self, folder, project, name, id, config):
        self.id = id or f"id-{len(self.runs)}"
        self.told = self.runs.setdefault(self.id, [])

    def log(self, values, step):
        self.told.append((step, values))

    def table(self, name, columns, rows, step):
        self.told.append((step, {name: (columns, rows)}))

    def artifact(self, file):
        self.told.append((None, {"artifact": file.name}))


class Failing(Recorded):
    def log(self, values, step):
        raise ConnectionError("no route to the tracker\nmore")


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    monkeypatch.setattr(Recorded, "runs", {})
    monkeypatch.setitem(TRACKERS, "trackio", Recorded)
    monkeypatch.setitem(TRACKERS, "mlflow", Failing)


def made(folder, *kinds, warned=None):
    """(Following, its RunDir) of a stream of two tasks; the first has two stages."""
    content = short("sft", "sft") | {"tracking": list(kinds)}
    content["stream"][1]["stages"].pop()
    recipe = load(write_recipe(folder / "mine.yaml", content))
    rundir = RunDir(folder / "run")
    (folder / "run").mkdir(exist_ok=True)
    warn = [].append if warned is None else warned.append
    return Following(rundir, recipe, lambda: None, warn), rundir


def committed(place, steps) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "stages.json").write_text(json.dumps([{"steps": each} for each in steps]))


def line(task, stage, step, **values):
    return {"task": task, "stage": stage, "step": step, "max_steps": 3, "seconds": 1.0, **values}


def test_one_run_and_steps_that_never_go_back(tmp_path):
    follow, rundir = made(tmp_path, "trackio")
    for step in (1, 2, 3):
        follow.line(line("reverse", "0-sft", step, loss=step / 10, kl=None))
    stage = rundir.points / ".01-reverse.work" / "0-sft"
    stage.mkdir(parents=True)
    (stage / "stage.json").write_text('{"steps": 3}')
    follow.line(line("reverse", "1-sft", 1, loss=0.5))
    follow.close()
    # killed, and resumed from the stage's start
    follow, rundir = made(tmp_path, "trackio")
    follow.line(line("reverse", "1-sft", 1, loss=0.5))
    follow.line(line("reverse", "1-sft", 2, loss=0.6))
    committed(rundir.points / "01-reverse", (3, 2))
    committed(rundir.points / "02-caesar.attempt-1", (4,))
    follow.line(line("caesar", "0-sft", 1, loss=0.7))
    (told,) = Recorded.runs.values()
    assert [step for step, _ in told] == [1, 2, 3, 4, 5, 10]
    assert told[-1][1] == {
        "train/loss": 0.7,
        "train/seconds": 1.0,
        "caesar/0-sft/loss": 0.7,
        "caesar/0-sft/seconds": 1.0,
        "train/task": 2,
        "train/stage": 0,
    }
    assert "train/kl" not in told[0][1]


RESULTS = {
    "points": ["points/00-base", "points/01-reverse"],
    "tasks": ["reverse", "caesar"],
    "accuracy": [[0.1, 0.2], [0.9, 0.3]],
    "held_out": {"general": [0.8, 0.7]},
    "stages": [{"steps": 5}],
    "metrics": {"forgetting": 0.1, "forward": None},
}


def test_the_matrix_and_the_report(tmp_path):
    follow, _ = made(tmp_path, "trackio")
    follow.row(RESULTS)
    follow.finished(RESULTS, tmp_path / "report.html")
    follow.close()
    again, _ = made(tmp_path, "trackio")  # the same command on a run that is complete
    again.finished(RESULTS, tmp_path / "report.html")
    (told,) = Recorded.runs.values()
    assert told == [
        (5, {"accuracy/reverse": 0.9, "accuracy/caesar": 0.3, "held_out/general": 0.7}),
        (
            5,
            {
                "matrix": (
                    ["after", "reverse", "caesar", "general"],
                    [["00-base", 0.1, 0.2, 0.8], ["01-reverse", 0.9, 0.3, 0.7]],
                )
            },
        ),
        (5, {"metrics/forgetting": 0.1}),
        (None, {"artifact": "report.html"}),
    ]


def test_a_tracker_that_fails_is_left_out(tmp_path):
    warned = []
    follow, _ = made(tmp_path, "mlflow", "trackio", warned=warned)
    for step in (1, 2):
        follow.line(line("reverse", "0-sft", step, loss=0.1))
    assert warned == ["tracking: mlflow failed and is left out from here on: no route to the tracker"]
    assert [step for step, _ in Recorded.runs["id-1"]] == [1, 2]


def test_without_trackers_nothing_is_written(tmp_path):
    follow, _ = made(tmp_path)
    follow.line(line("reverse", "0-sft", 1, loss=0.1))
    follow.row(RESULTS)
    follow.finished(RESULTS, tmp_path / "report.html")
    assert not list((tmp_path / "run").iterdir())


def test_the_report_is_made_again_at_points_and_every_minute(tmp_path, monkeypatch):
    now, reports = [0.0], []
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: now[0]))
    follow, rundir = made(tmp_path)
    follow.rewrite = lambda: reports.append(now[0])
    rundir.results.write_text("{}")
    for second in range(0, 200, 10):
        now[0] = float(second)
        follow.line(line("reverse", "0-sft", 1 + second, loss=0.1))
    follow.row(RESULTS)
    assert reports == [60.0, 120.0, 180.0, 190.0]


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert missing("wandb") == "wandb needs the package wandb: pip install wandb"
    import cpt

    with pytest.raises(cpt.RecipeErrors, match=r"tracking.0: wandb needs the package wandb"):
        cpt.check(short("sft") | {"tracking": ["wandb"]}, out=tmp_path / "run")


def test_mistakes(tmp_path):
    (mistake,) = mistakes(tmp_path, short("sft") | {"tracking": ["wandbb"]})
    assert "tracking.0" in mistake and "wandb" in mistake


def test_an_open_report_reloads_itself_until_the_run_is_complete(tmp_path):
    from cpt.report import build
    from helpers.fake_run import make_run

    part = build(make_run(tmp_path / "part", trained=2, count=20, samples=0))[0].read_text()
    assert '<meta http-equiv="refresh" content="60">' in part
    assert "http-equiv" not in build(make_run(tmp_path / "whole", count=20, samples=0))[0].read_text()


# -- the trackers themselves: what they wrote is read back ---------------------------------------------------------------


def told(kind, folder, name="run-s0"):
    """A run of the tracker, ended and opened again; returns its id."""
    first = trackers.__dict__[kind](folder, "project", name, None, {"seed": 0})
    first.log({"train/loss": 0.5}, 1)
    first.end()
    second = trackers.__dict__[kind](folder, "project", name, first.id, {"seed": 0})
    second.log({"train/loss": 0.4}, 2)
    second.table("matrix", ["after", "sort"], [["00-base", 0.1], ["01-sort", 0.9]], 2)
    (folder.parent / "report.html").write_text("<p>report</p>")
    second.artifact(folder.parent / "report.html")
    second.end()
    assert first.id == second.id
    return first.id


def test_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    told("TensorBoard", tmp_path / "tracking")
    events = EventAccumulator(str(tmp_path / "tracking" / "tensorboard")).Reload()
    assert [(each.step, round(each.value, 3)) for each in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.4)]
    (table,) = events.Tensors("matrix/text_summary")
    assert b"| 01-sort | 0.9 |" in table.tensor_proto.string_val[0]


def test_trackio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    told("Trackio", tmp_path / "tracking")
    (run,) = trackio.Api().runs("project")
    assert run.name == "run-s0"


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_id = told("MLflow", tmp_path / "tracking")
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(1, 0.5), (2, 0.4)]
    assert {each.path for each in client.list_artifacts(run_id)} == {"matrix.json", "report.html"}


def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_id = told("Wandb", tmp_path / "tracking")
    assert len(list((tmp_path / "tracking" / "wandb").glob(f"offline-run-*-{run_id}"))) >= 1


def test_a_run_is_tracked_from_its_first_stage_to_its_report(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    import cpt

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    file = write_recipe(tmp_path / "mine.yaml", short("sft", evaluate=5) | {"tracking": ["tensorboard"]})
    cpt.run(file, out=tmp_path / "run", quiet=True)
    cpt.run(file, out=tmp_path / "run", quiet=True)  # nothing is left to do
    events = EventAccumulator(str(tmp_path / "run" / "tracking" / "tensorboard")).Reload()
    assert [each.step for each in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [each.step for each in events.Scalars("caesar/0-sft/loss")] == [4, 5, 6]
    assert [each.value for each in events.Scalars("train/task")] == [1, 1, 1, 2, 2, 2]
    assert [each.step for each in events.Scalars("accuracy/reverse")] == [0, 3, 6]
    assert len(events.Scalars("metrics/forgetting")) == 1
    assert "caesar" in events.Tensors("matrix/text_summary")[-1].tensor_proto.string_val[0].decode()
