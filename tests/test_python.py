"""The Python face: the page that shows it, dictionaries as recipes, mistakes, and sessions that go on."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
import torch

import cpt
from cpt.recipe import dump, load
from helpers.recipes import short, write_recipe

ROOT = Path(__file__).parent.parent


class Word(StrEnum):
    REVERSE = "reverse"


def weights_of(run: cpt.Run) -> str:
    return hashlib.sha256((run.model / "model.safetensors").read_bytes()).hexdigest()


def test_the_page(tmp_path, monkeypatch, capsys):
    """docs/python.md runs from top to bottom, and prints what it says."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    (shown,) = re.findall(r"^```text\n(.*?)^```", text, re.M | re.S)
    assert printed.endswith(shown)
    assert (tmp_path / "runs" / "two-tasks" / "report.html").is_file()
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_the_import_is_light():
    program = "import sys, cpt\n"
    program += "heavy = {'torch', 'pydantic', 'numpy', 'rich', 'transformers', 'ruamel.yaml'} & {*sys.modules}\n"
    program += "assert not heavy, heavy\n"
    program += "assert {'run', 'check', 'evaluate', 'merge', 'read_run'} <= {*dir(cpt)}"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (Path(cpt.__file__).parent / "py.typed").is_file()


def test_every_name_is_there_and_says_what_it_is():
    for name in cpt.__all__:
        assert getattr(cpt, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cpt.nothing  # noqa: B018


def test_a_dictionary_is_the_file(tmp_path):
    """The same recipe as a file and as a dictionary with values that Python has and YAML does not."""
    content = short("sft", steps=2)
    file = load(write_recipe(tmp_path / "recipe.yaml", content))
    content["stream"] = tuple(content["stream"])
    args = content["stream"][0]["stages"][0]["args"]
    args |= {
        "max_steps": np.int64(args["max_steps"]),
        "learning_rate": torch.tensor(args["learning_rate"], dtype=torch.float64),
    }
    content["stream"][0]["data"]["name"] = Word.REVERSE
    given = load(content)
    assert dump(given) == dump(file)
    assert type(given.stream[0].stages[0].args["max_steps"]) is int
    assert given.stream[0].data.name == "reverse"


def test_what_a_dictionary_extends(tmp_path, monkeypatch):
    write_recipe(tmp_path / "base.yaml", short("sft", steps=2) | {"rollouts": {"batch_size": 32}})
    monkeypatch.chdir(tmp_path)
    given = load({"extends": "base", "name": "mine", "stream": [{"caesar": None}]}, [("seed", np.int32(4))])
    assert (given.name, given.seed, [task.task for task in given.stream]) == ("mine", 4, ["reverse"])
    assert given.rollouts.batch_size == 32
    switched = load({"extends": "base", "rollouts": {"engine": "vllm"}})
    assert switched.rollouts.engine == "vllm", "what only the other engine has is dropped, as over a file"


WRONG = {
    "an unknown key": ({"sead": 1}, {}, "Python: sead: unknown key; did you mean seed?"),
    "a function": (
        {"seed": len},
        {},
        "Python: seed: <built-in function len> is a builtin_function_or_method: a recipe",
    ),
    "a set": ({"stream": {1}}, {}, "Python: stream: {1} is a set"),
    "an array": ({"seed": np.zeros(2)}, {}, "Python: seed: array([0., 0.]) is a ndarray"),
    "infinity": ({"seed": float("inf")}, {}, "Python: seed: must be a finite number, not inf"),
    "beyond 64 bits": ({"seed": 2**63}, {}, "Python: seed: is beyond 64 bits"),
    "a key that is a number": ({"stream": [{1: 2}]}, {}, "Python: stream.0: the key 1 must be text, not int"),
    "an override": ({}, {"stream.reverse.stages.0.args.max_step": 1}, "args.max_step: SFTConfig has no such argument"),
    "an override of no place": ({}, {"stream.sort.task": "x"}, "Python: stream.sort.task: there is no stream.sort"),
    "an override that is a function": ({}, {"stream.reverse.task": len}, "Python: stream.reverse.task: <built-in"),
    "an override that extends": ({}, {"extends": "quickstart"}, "Python: extends: belongs in a recipe's file"),
}


@pytest.mark.parametrize("more, overrides, message", WRONG.values(), ids=WRONG)
def test_mistakes(more, overrides, message, tmp_path):
    with pytest.raises(cpt.RecipeErrors, match=re.escape(message)):
        cpt.check(short("sft", steps=2) | more, overrides, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dictionary_that_holds_itself():
    content: dict = {}
    content["stream"] = [content]
    with pytest.raises(cpt.RecipeErrors, match="nested more than 40 deep, or a value that holds itself"):
        cpt.check(content)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: cpt.run("quickstat"), "no recipe of that name; did you mean quickstart?"),
        (lambda: cpt.run("quickstart", sead=1), "Python: sead: unknown key; did you mean seed?"),
        (lambda: cpt.run("quickstart", ["seed"]), "must be KEY=VALUE"),
        (lambda: cpt.evaluate("gone"), "gone: is neither a run directory"),
        (lambda: cpt.evaluate("gone", "genral"), "did you mean general?"),
        (lambda: cpt.evaluate("gone", {"name": "x", "tasks": 3}), "Python: tasks: must be a list, not 3"),
        (lambda: cpt.merge("gone", out="new", method="wise"), "gone: no such folder"),
        (lambda: cpt.merge("gone", out="new", method="dare", densty=0.5), "no option densty; did you mean density?"),
        (lambda: cpt.read_run("gone"), "gone: holds no results.json"),
    ],
)
def test_a_users_mistake_is_one_exception(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(cpt.UserError, match=re.escape(message)):
        call()
    assert os.listdir(tmp_path) == []


def test_runs_of_one_session_do_not_meet(tmp_path):
    """The same run twice in a process and once in a thread: the same weights, and the session's signal handlers stay."""
    content = short("sft", steps=2)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    runs = [cpt.run(content, seed=3, out=tmp_path / str(number), quiet=True) for number in range(2)]
    in_thread = threading.Thread(
        target=lambda: runs.append(cpt.run(content, seed=3, out=tmp_path / "thread", quiet=True))
    )
    in_thread.start()
    in_thread.join()
    assert len(runs) == 3 and len({weights_of(run) for run in runs}) == 1
    assert runs[0].matrix == runs[1].matrix == runs[2].matrix
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert weights_of(cpt.run(content, seed=4, out=tmp_path / "other", quiet=True)) != weights_of(runs[0])


def test_a_run_as_it_is_shown(tmp_path):
    run = cpt.run(short("sft", steps=2), out=tmp_path / "run", quiet=True)
    assert "00-base" in str(run) and f"{run.matrix[0][0]:.3f}" in str(run)
    assert run._repr_html_().count("<tr>") == 1 + len(run.points)
    assert run.complete and run.passed and run.model.is_dir() and run.report.is_file() and not run.warnings
    assert set(run.answers) == set(run.points) and run.gates == []


INTERRUPTED = """
import os, signal, sys
import cpt
from cpt.stages.metrics_logger import MetricsLogger

content = {content!r}
log = MetricsLogger.on_step_end
def signalled(self, args, state, control, **more):
    if state.global_step == 2:
        MetricsLogger.on_step_end = log
        os.kill(os.getpid(), signal.{signal})
    return log(self, args, state, control, **more)
MetricsLogger.on_step_end = signalled
try:
    cpt.run(content, out="run", quiet=True)
except KeyboardInterrupt as error:
    print("interrupted:", error)
run = cpt.run(content, out="run", quiet=True)
print("complete:", run.complete)
print(run.model)
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupted_session_goes_on(number, tmp_path):
    content = short("sft", steps=4)
    program = INTERRUPTED.format(content=content, signal=number)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "interrupted: interrupted by signal" in done.stdout and "complete: True" in done.stdout
    alone = cpt.run(content, out=tmp_path / "alone", quiet=True)
    assert weights_of(cpt.read_run(tmp_path / "run")) == weights_of(alone)
