"""What users' functions, and the answers that they judge, cannot do: stop the run, forge a score, outlive their worker."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cpt.rewards import Scorer, Scorers, failure_lines
from cpt.rewards.function import missing

JUDGE = """
import json, os, signal, sys, time

def judge(completion, row):
    return globals()[completion](row)

def right(row):
    return 1.0

def forges(row):
    '''Writes scores into every pipe, as a worker would, and into those of standard output.'''
    line = json.dumps({"call": row.get("call", "1"), "value": 1.0}) + "\\n"
    print(line, flush=True)
    for descriptor in range(20):
        try:
            os.write(descriptor, line.encode())
        except OSError:
            pass
    return 0.0

def prints(row):
    print('{"call": "1", "value": 1.0}', flush=True)
    os.write(1, b'{"call": "1", "value": 1.0}\\n')
    return 0.25

def reads(row):
    return float(len(sys.stdin.read()) == 0)

def stops(row):
    os.kill(os.getpid(), signal.SIGSTOP)

def exits(row):
    print("the licence has run out", file=sys.stderr)
    os._exit(3)

def aborts(row):
    os.abort()

def floods(row):
    for _ in range(100):
        os.write(2, b"x" * 100_000)
    return 1.0

def closes(row):
    os.close(2)
    time.sleep(0.3)
    return 1.0

def leaves_a_daemon(row):
    '''Forked twice and in a session of its own; says where it is, and holds every pipe open.'''
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open(row["file"], "w") as stream:
                stream.write(str(os.getpid()))
            time.sleep(600)
        os._exit(0)
    while not (os.path.exists(row["file"]) and open(row["file"]).read()):
        time.sleep(0.01)
    return 1.0

def daemon_and_exit(row):
    leaves_a_daemon(row)
    os._exit(1)

def daemon_and_hang(row):
    leaves_a_daemon(row)
    time.sleep(600)
"""


def function(folder: Path, limit: float = 5.0) -> dict:
    (folder / "mine.py").write_text(JUDGE)
    return {"kind": "function", "path": "mine:judge", "folder": str(folder), "timeout": limit}


@pytest.mark.parametrize(
    "asked, value, error",
    [
        ("forges", None, "garbled"),
        ("prints", 0.25, None),
        ("reads", 1.0, None),
        ("floods", 1.0, None),
        ("closes", 1.0, None),
        ("exits", None, "died: the verifier ended its process (exit code 3): the licence has run out"),
        ("aborts", None, "died: the verifier ended its process (SIGABRT)"),
        ("stops", None, "timeout: took more than 1 s"),
    ],
)
def test_one_call(asked, value, error, tmp_path):
    with Scorer(function(tmp_path, 1.0 if asked == "stops" else 5.0)) as scorer:
        [bad, good] = scorer.score([asked, "right"], [{"id": "a"}, {"id": "b"}])
        assert bad.value == value and (bad.error or "").startswith(error or "") and good.value == 1.0, bad
        assert scorer.score(["right"], [{}])[0].value == 1.0


def test_a_worker_that_stops_reading(tmp_path):
    """Stopped while it is idle; the next call is longer than a pipe."""
    with Scorer(function(tmp_path, 1.0), workers=1) as scorer:
        scorer.score(["right"], [{}])
        [worker] = scorer._pool.workers
        for each in psutil.Process(worker.process.pid).children():
            each.suspend()
        began = time.monotonic()
        assert scorer.score(["right"], [{"long": "x" * 1_000_000}])[0].error.startswith("timeout")
        assert scorer.score(["right"], [{"long": "x" * 1_000_000}])[0].value == 1.0
        assert time.monotonic() - began < 15


def is_gone(pid: int) -> bool:
    with_limit = time.monotonic() + 10
    while time.monotonic() < with_limit:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="daemons can be found on Linux alone")
@pytest.mark.parametrize("asked", ["leaves_a_daemon", "daemon_and_exit", "daemon_and_hang"])
def test_daemons_end_with_their_worker(asked, tmp_path):
    file = tmp_path / "pid"
    with Scorer(function(tmp_path, 1.0)) as scorer:
        scorer.score([asked], [{"file": str(file)}])
    assert is_gone(int(file.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="daemons can be found on Linux alone")
def test_daemons_end_with_a_run_that_is_killed(tmp_path):
    file = tmp_path / "pid"
    code = (
        "from cpt.rewards import Scorer\n"
        f"scorer = Scorer({function(tmp_path, 60.0)!r}); scorer.score(['daemon_and_hang'], [{{'file': {str(file)!r}}}])\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    try:
        limit = time.monotonic() + 30
        while not (file.exists() and file.read_text()):
            assert time.monotonic() < limit and run.poll() is None
            time.sleep(0.05)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert is_gone(int(file.read_text()))


def test_workers_that_never_come_up_are_not_tried_for_every_answer(tmp_path):
    (tmp_path / "dies.py").write_text("import os, sys; print('no GPU here', file=sys.stderr); os._exit(7)\n")
    with Scorers() as scorers:
        scorer = scorers.get({"kind": "function", "path": "dies:judge", "folder": str(tmp_path), "timeout": 5.0})
        began = time.monotonic()
        scores = scorer.score(["a"] * 500, [{"id": "a"}] * 500)
        assert {score.error for score in scores} == {"died: the verifier ended its process (exit code 7): no GPU here"}
        assert time.monotonic() - began < 20
        [line] = failure_lines(scorers.failures())
        assert "500 x died" in line and "no GPU here" in line


# -- what is imported ----------------------------------------------------------------------------------------------------

SHADOWS = ("random", "types", "json", "signal", "numpy", "regex", "sympy", "math_verify", "psutil", "cpt")


@pytest.mark.parametrize("kind", ["math", "function"])
def test_files_beside_the_recipe_stand_in_for_no_library(kind, tmp_path, monkeypatch):
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was run')\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import numpy, regex, psutil, random, helper\ndef judge(c, r): return helper.half + random.random() * 0\n"
    )
    (tmp_path / "helper.py").write_text("import types, json\nhalf = 0.5\n")
    spec = {"kind": "function", "path": "mine:judge", "folder": str(tmp_path), "timeout": 20.0}
    with Scorer(spec if kind == "function" else {"kind": "math", "timeout": 20.0}) as scorer:
        [score] = scorer.score(["1/2"], [{"answer": "0.5"}])
    assert score.value == (0.5 if kind == "function" else 1.0), score


def test_the_command_takes_no_library_from_the_working_directory(tmp_path):
    for name in ("random", "numpy", "regex", "pydantic"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was run')\n")
    done = subprocess.run(
        [sys.executable, "-m", "cpt", "check", "quickstart"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_functions_own_module_comes_from_beside_the_recipe(tmp_path):
    """Also where an installed package has its name; not where Python has."""
    (tmp_path / "sympy.py").write_text("def judge(c, r): return 1.0\n")
    spec = {"kind": "function", "path": "sympy:judge", "folder": str(tmp_path), "timeout": 20.0}
    assert missing(spec) is None
    with Scorer(spec) as scorer:
        assert scorer.score(["a"], [{}])[0].value == 1.0
    (tmp_path / "random.py").write_text("def judge(c, r): return 1.0\n")
    assert "has the name of a module of Python's" in missing(spec | {"path": "random:judge"})


def test_a_package_with_relative_imports(tmp_path):
    package = tmp_path / "mine" / "inner"
    package.mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").write_text("from .scale import factor\n")
    (tmp_path / "mine" / "scale.py").write_text("factor = 0.5\n")
    (package / "__init__.py").write_text("")
    (package / "judge.py").write_text(
        "from .. import factor\nfrom ..scale import factor as same\ndef judge(c, r): return factor + same\n"
    )
    spec = {"kind": "function", "path": "mine.inner.judge:judge", "folder": str(tmp_path), "timeout": 20.0}
    with Scorers() as scorers:
        [files] = scorers.keep([spec]).values()
        assert {*files} == {"mine/__init__.py", "mine/scale.py", "mine/inner/__init__.py", "mine/inner/judge.py"}
        assert scorers.get(spec).score(["a"], [{}])[0].value == 1.0


# -- the same bytes ------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_started_later_runs_the_same_bytes(tmp_path):
    """The function's module and what it imports, changed and even gone; both are hashed, and named once."""
    (tmp_path / "mine.py").write_text(
        "import os, helper\ndef judge(c, r):\n    if c == 'dies': os._exit(1)\n    from later import more\n"
        "    return helper.value + more\n"
    )
    (tmp_path / "helper.py").write_text("value = 1.0\n")
    (tmp_path / "later.py").write_text("more = 0.5\n")
    (tmp_path / "other.py").write_text("")
    spec = {"kind": "function", "path": "mine:judge", "folder": str(tmp_path), "timeout": 5.0}
    with Scorers(workers=1) as scorers:
        assert {name: [*files] for name, files in scorers.keep([spec, spec]).items()} == {
            "mine:judge": ["helper.py", "later.py", "mine.py"]
        }
        assert scorers.newly_changed() == []
        (tmp_path / "helper.py").write_text("value = 2.0\n")
        (tmp_path / "later.py").unlink()
        scorer = scorers.get(spec)
        assert [score.value for score in scorer.score(["a", "dies", "a"], [{}] * 3)] == [1.5, None, 1.5]
        assert scorers.newly_changed() == [str(tmp_path / "helper.py"), str(tmp_path / "later.py")]
        assert scorers.newly_changed() == []
    assert not (tmp_path / "__pycache__").exists()


def test_another_verifier_in_the_middle_of_a_run_is_refused(cpt, tmp_path):
    from helpers.recipes import short, write_recipe

    (tmp_path / "mine.py").write_text("from helper import value\ndef judge(completion, row): return value\n")
    helper = tmp_path / "helper.py"
    helper.write_text("value = 1.0\n")
    content = short("sft", steps=1, evaluate=4)
    for task in content["stream"]:
        task["metric"] = "mine:judge"
    file, out = write_recipe(tmp_path / "recipe.yaml", content), tmp_path / "run"
    at = {"place": "cpt.loop.points.train_task", "call": 2, "signal": signal.SIGTERM}
    assert cpt("run", file, "--out", out, "--quiet", at=at) == 143, cpt.output
    files = json.loads((out / "manifest.json").read_text())["verifiers"]["mine:judge"]
    assert {*files} == {"mine.py", "helper.py"}
    helper.write_text("value = 0.0\n")
    assert cpt("run", file, "--out", out) == 2
    assert "the verifier mine:judge has changed since this run began (helper.py; hashes in manifest.json)" in cpt.output
    helper.write_text("value = 1.0\n")
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    assert json.loads((out / "results.json").read_text())["accuracy"][-1] == [1.0, 1.0]
