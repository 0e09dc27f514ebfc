"""SIGTERM and Ctrl-C: soon, without a traceback, and the place is kept; a second signal ends the process at once."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from helpers.recipes import RECIPES, write_recipe
from helpers.same_end import assert_same_end

CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


def start(code: str, **more) -> subprocess.Popen:
    """A Python process that has printed `ready`."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )
    assert process.stdout.readline() == "ready\n"
    return process


LISTENS = """
    import sys, time
    from cpt.stop import listening
    with listening() as stop:
        stop.kept = "all is kept"
        with stop.within({patience}):
            print("ready", flush=True)
            {work}
    print("went on", flush=True)
"""
# One call of C that goes on for minutes: no handler of Python's can run before it returns.
LONG_CALL = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)"


@pytest.mark.parametrize("number, code", CODES)
def test_where_nothing_is_to_be_saved_the_first_signal_ends_the_process(number, code):
    process = start(LISTENS.format(patience=0, work="time.sleep(60)"))
    process.send_signal(number)
    out, error = process.communicate(timeout=10)
    assert (process.returncode, out) == (code, "")
    assert error == f"cpt: stopped at once; all is kept (signal {number})\n"


def test_a_long_call_of_a_library_is_ended_when_its_time_is_over():
    process = start(LISTENS.format(patience=1.0, work=LONG_CALL))
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, error = process.communicate(timeout=10)
    assert process.returncode == 143 and 0.9 < time.monotonic() - began < 5
    assert "stopped at once" in error and "Traceback" not in error


def test_a_second_signal_ends_a_long_call_at_once():
    process = start(LISTENS.format(patience=None, work=LONG_CALL))
    process.send_signal(signal.SIGINT)
    assert "a second signal (Ctrl-C) ends it at once" in process.stderr.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 130 and time.monotonic() - began < 2
    assert error == "cpt: stopped at once; all is kept (signal 2)\n"


def test_two_signals_at_the_same_time_are_one():
    process = start(LISTENS.format(patience=None, work="time.sleep(2); print(stop.signal)"))
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.03)
    out, error = process.communicate(timeout=10)
    assert process.returncode == 0 and out == "15\nwent on\n" and "Traceback" not in error


def test_signals_that_are_not_ours_are_left_alone():
    work = (
        "import signal, os; signal.signal(signal.SIGUSR1, lambda *_: None); [os.kill(os.getpid(), 10) for _ in '123']"
    )
    process = start(LISTENS.format(patience=0, work=work + "; time.sleep(0.5)"))
    assert process.communicate(timeout=10) == ("went on\n", "") and process.returncode == 0


def test_a_forked_worker_does_not_stop_its_parent():
    work = """
            import multiprocessing
            with multiprocessing.get_context("fork").Pool(2) as pool:  # ended by SIGTERM
                pool.map(abs, [1, 2])
            time.sleep(0.3)
            print(stop.signal)
"""
    process = start(LISTENS.format(patience=0, work=work.strip()))
    assert process.communicate(timeout=10) == ("None\nwent on\n", "") and process.returncode == 0


# -- in a run ------------------------------------------------------------------------------------------------------------

TOKEN = "cpt.rollouts.transformers.Watch.__call__"
IN_A_RUN = {
    "an evaluation, between two tokens": ("sft", {"place": TOKEN, "call": 3}, []),
    "the evaluation of a point": ("sft", {"place": "cpt.evaluation.suites.rows.score_answers", "call": 2}, []),
    "the loading of a model": ("sft", {"place": "cpt.models.load_full", "call": 2}, []),
    "the first rollouts": ("rlvr", {"place": "cpt.stages.trainer.engine_answers", "call": 1}, []),
    "rollouts": ("rlvr", {"place": "cpt.stages.trainer.engine_answers", "call": 8}, ["checkpoint-4", "checkpoint-7"]),
    "rollouts after a checkpoint": (
        "rlvr",
        {"place": "cpt.stages.trainer.engine_answers", "call": 5},
        ["checkpoint-4"],
    ),
    "rollouts of two steps": (
        "rlvr-two-iterations",
        {"place": "cpt.stages.trainer.engine_answers", "call": 4},
        ["checkpoint-4", "checkpoint-6"],
    ),
    "answers for pairs": ("dpo", {"place": "cpt.stages.sampling.answers", "call": 1}, []),
    "the saving of a stage": ("sft", {"place": "cpt.models.save_policy", "call": 1}, ["0-sft"]),
    "the end of the last evaluation": ("sft", {"place": "cpt.loop.rows.show_row", "call": 3}, []),
}


@pytest.mark.usefixtures("given_rewards")
@pytest.mark.parametrize("name", IN_A_RUN)
def test_a_run_stops_soon_and_goes_on_to_the_same_bytes(cpt, alone, tmp_path, name):
    kind, at, saved = IN_A_RUN[name]
    file, out = write_recipe(tmp_path / f"{kind}.yaml", RECIPES[kind]), tmp_path / "run"
    began = time.monotonic()
    assert cpt("run", file, "--out", out, "--quiet", at=at | {"signal": signal.SIGTERM}) == 143, cpt.output
    assert time.monotonic() - began < 30 and "interrupted and saved" in cpt.output and "Traceback" not in cpt.output
    assert sorted(file.parent.name for file in (out / "points").glob(".*.work/**/DONE")) == saved
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    assert_same_end(out, alone(kind))


@pytest.mark.parametrize(("place", "call"), [("cpt.loop.points.finish", 1), ("cpt.report.build", 4)])
def test_a_signal_when_all_is_done_is_told_too(cpt, alone, tmp_path, place, call):
    """Whoever stopped the run learns that from the exit code, whenever it came. (Each row builds a report.)"""
    file, out = write_recipe(tmp_path / "sft.yaml", RECIPES["sft"]), tmp_path / "run"
    assert cpt("run", file, "--out", out, "--quiet", at={"place": place, "call": call, "signal": signal.SIGTERM}) == 143
    assert cpt.output.endswith("cpt: stopped when everything was done; nothing is lost (signal 15)\n")
    assert_same_end(out, alone("sft"))
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output


# -- other commands, and the whole process -------------------------------------------------------------------------------

SUITE = """
name: held
tasks: [{task: copy, data: {source: procedural, name: copy, eval: 8}, reward: exact}]
"""


@pytest.mark.parametrize("number, code", CODES)
def test_cpt_eval_keeps_nothing(number, code, cpt, tiny_folder, tmp_path):
    (tmp_path / "held.yaml").write_text(SUITE)
    words = ("eval", tiny_folder, "--suite", tmp_path / "held.yaml", "--out", tmp_path / "answers", "--quiet")
    assert cpt(*words, at={"place": TOKEN, "call": 2, "signal": number}) == code
    assert cpt.output == f"cpt: interrupted; no answers are kept, the same command starts again (signal {number})\n"
    assert [each.name for each in tmp_path.iterdir()] == ["held.yaml"]


@pytest.mark.parametrize("number, code", CODES)
def test_cpt_merge_keeps_nothing(number, code, cpt, tiny_folder, tmp_path):
    words = ("merge", tiny_folder, tiny_folder, "--method", "linear", "--out", tmp_path / "out", "--quiet")
    assert cpt(*words, at={"place": "cpt.merging.stream.Pass._chunk", "call": 2, "signal": number}) == code
    assert cpt.output == f"cpt: interrupted; nothing is kept, the same command starts again (signal {number})\n"
    assert not [*tmp_path.iterdir()]


TWICE = ["the loading of a model", "an evaluation, between two tokens", "the first rollouts", "answers for pairs"]


@pytest.mark.usefixtures("given_rewards")
@pytest.mark.parametrize("number, then, code", [(15, 2, 143), (2, 15, 130)])
@pytest.mark.parametrize("name", TWICE)
def test_two_signals_within_30_ms_are_one(name, number, then, code, cpt, tmp_path):
    kind, at, saved = IN_A_RUN[name]
    file, out = write_recipe(tmp_path / f"{kind}.yaml", RECIPES[kind]), tmp_path / "run"
    assert cpt("run", file, "--out", out, "--quiet", at=at | {"signal": number, "then": then}) == code, cpt.output
    assert cpt.output == f"cpt: interrupted and saved; the same command resumes from here (signal {number})\n"
    assert sorted(file.parent.name for file in (out / "points").glob(".*.work/**/DONE")) == saved


@pytest.mark.parametrize("name", ["eval", "merge"])
def test_two_signals_within_30_ms_end_other_commands(name, cpt, tiny_folder, tmp_path):
    (tmp_path / "held.yaml").write_text(SUITE)
    words, at = {
        "eval": (("--suite", tmp_path / "held.yaml"), {"place": TOKEN, "call": 2}),
        "merge": (
            (tiny_folder, "--method", "linear", "--out", tmp_path / "out"),
            {"place": "cpt.merging.stream.Pass._chunk", "call": 2},
        ),
    }[name]
    code = cpt(name, tiny_folder, *words, "--quiet", at=at | {"signal": signal.SIGTERM, "then": signal.SIGINT})
    assert code == 143 and len(cpt.output.splitlines()) == 1 and "(signal 15)" in cpt.output, cpt.output
    assert [each.name for each in tmp_path.iterdir()] == ["held.yaml"]


def test_before_anything_is_imported_ctrl_c_leaves_no_traceback():
    program = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # as a terminal leaves it
import cpt.__main__
os.kill(os.getpid(), signal.SIGINT)
print("went on")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("number, code", CODES)
def test_a_signal_while_the_libraries_are_imported(number, code, tmp_path):
    file = write_recipe(tmp_path / "recipe.yaml", RECIPES["sft"])
    process = subprocess.Popen(
        [sys.executable, "-m", "cpt", "run", str(file), "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "test: 2 tasks in" in process.stdout.readline()
    began = time.monotonic()
    process.send_signal(number)
    time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code and time.monotonic() - began < 10
    assert error == (
        f"cpt: stopped at once; what was committed is kept, the same command resumes from there (signal {number})\n"
    )


def test_a_library_that_fails_because_of_the_signal_is_no_failure(cpt, tmp_path):
    """A signal to the whole group also ends servers and workers: what that raises is not told as an error of the run."""
    file, out = write_recipe(tmp_path / "recipe.yaml", RECIPES["sft"]), tmp_path / "run"
    at = {"place": "cpt.models.load_full", "call": 2, "when": "raise", "signal": signal.SIGTERM}
    assert cpt("run", file, "--out", out, "--quiet", at=at) == 143
    assert "Traceback" not in cpt.output and cpt.output.startswith("cpt: ended; what was committed is kept")
