"""Verifiers by hand-worked cases, and scorers that no verifier can stop: raising, hanging, dying, None, NaN."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import psutil
import pytest

from cpt.rewards import Scorer, Scorers, build, failure_lines
from cpt.rewards.answers import unreadable
from cpt.rewards.worker import call_one

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "spec, completion, row, value",
    [
        ({"kind": "exact"}, " dcba ", {"answer": "dcba"}, 1.0),
        ({"kind": "exact"}, "dcbb", {"answer": "dcba"}, 0.0),
        ({"kind": "exact"}, "abcd", {"answer": "abcd", "finished": False}, 0.0),
        ({"kind": "exact"}, "Paris.", {"answer": "paris"}, 0.0),
        ({"kind": "exact", "ignore_case": True, "ignore_punctuation": True}, "Paris.", {"answer": "paris"}, 1.0),
        ({"kind": "exact", "after": ["####"]}, "so 3 #### 42", {"answer": "42"}, 1.0),
        ({"kind": "exact", "after": ["####"]}, "#### 41 no #### 42", {"answer": "42"}, 1.0),
        ({"kind": "exact", "after": ["####"]}, "42 #### 41", {"answer": "42"}, 0.0),
        ({"kind": "exact", "after": ["####"]}, "... #### 42", {"answer": "1 + 41 = 42 #### 42"}, 1.0),
        ({"kind": "exact", "after": ["####"]}, "#### -42", {"answer": "42"}, 0.0),
        ({"kind": "format", "pattern": "^<think>.*</think>"}, "<think>a\nb</think> 4", {}, 1.0),
        ({"kind": "format", "pattern": "^<think>.*</think>"}, "4", {}, 0.0),
        ({"kind": "choice"}, "The answer is (B).", {"answer": "B"}, 1.0),
        ({"kind": "choice"}, "A is wrong, so the answer is C", {"answer": "C"}, 1.0),
        ({"kind": "choice"}, "B", {"answer": "(b)"}, 1.0),
        ({"kind": "choice"}, "I do not know", {"answer": "A"}, 0.0),
        ({"kind": "choice"}, "The answer is a matter of taste; I say (B)", {"answer": "A"}, 0.0),
        ({"kind": "choice"}, "The answer is b.", {"answer": "B"}, 1.0),
        ({"kind": "choice"}, "answer: b\n", {"answer": "B"}, 1.0),
        ({"kind": "choice"}, "the answer is **c)** Paris", {"answer": "C)"}, 1.0),
        ({"kind": "choice", "choices": "ABCDE"}, "(E)", {"answer": "E"}, 1.0),
        ({"kind": "f1"}, "the cat sat", {"answer": "a cat sat down"}, 0.8),  # articles go: 2 shared of 2 and of 3
        ({"kind": "f1"}, "dog", {"answer": "cat"}, 0.0),
        ({"kind": "math"}, r"so $\boxed{\frac{1}{2}}$", {"answer": "0.5"}, 1.0),
        ({"kind": "math"}, "the answer is 3", {"answer": "4"}, 0.0),
        ({"kind": "math"}, r"$x = \sqrt{8}$", {"answer": r"2\sqrt{2}"}, 1.0),
        ({"kind": "math"}, "0.00001", {"answer": "1e-05"}, 1.0),
        ({"kind": "math"}, "the answer is 1e-5.", {"answer": "0.00001"}, 1.0),
        ({"kind": "math"}, "1e-5", {"answer": "1"}, 0.0),  # math-verify alone reads the 1
        ({"kind": "math"}, r"\boxed{1.5 \times 10^{-7}}", {"answer": "1.5e-7"}, 1.0),
        ({"kind": "math"}, r"\boxed{10^{20}}", {"answer": "1e20"}, 1.0),
        ({"kind": "math"}, "20", {"answer": "1e20"}, 0.0),
        ({"kind": "math"}, "0.1", {"answer": "1e-05"}, 0.0),
        ({"kind": "math"}, "12345678901234567891", {"answer": "12345678901234567890"}, 0.0),
        ({"kind": "math"}, "2e-7", {"answer": "1.5e-7"}, 0.0),  # equal to six decimals
        ({"kind": "math"}, "0", {"answer": "1e-400"}, 0.0),
        ({"kind": "math"}, "\u22125", {"answer": "-5"}, 1.0),  # the minus sign of Unicode
        ({"kind": "math"}, "The answer is +5.", {"answer": "5"}, 1.0),
        ({"kind": "math"}, "3 +5", {"answer": "5"}, 0.0),
        ({"kind": "math"}, "\uff15", {"answer": "5"}, 1.0),
        ({"kind": "math"}, "5", {"answer": "\u0665"}, 1.0),
        ({"kind": "math"}, r"\boxed{1\,000}", {"answer": "1000"}, 1.0),
        ({"kind": "math"}, "1000", {"answer": r"1\,000"}, 1.0),
        ({"kind": "math"}, "1\u202f000", {"answer": "1000"}, 1.0),
        ({"kind": "math"}, "<think>\\boxed{4}</think> \\boxed{5}", {"answer": "5"}, 1.0),
        ({"kind": "math"}, "<think>\\boxed{5}", {"answer": "5"}, 0.0),
        ({"kind": "math"}, "so 4 <answer>5</answer> as 2 and 3 make it", {"answer": "5"}, 1.0),
        ({"kind": "math"}, "0.033333", {"answer": "1/30"}, 1.0),
        ({"kind": "math"}, r"\boxed{2e - 4}", {"answer": "2e-4"}, 1.0),  # Euler's number is not forgotten
    ],
)
def test_verifiers_by_hand(spec, completion, row, value):
    assert build(spec)(completion, row) == pytest.approx(value)


@pytest.mark.parametrize(
    "spec, wrong",
    [
        # "so ####" would be compared as text, by which 1/2 is not 0.5; of "1 1/2" and "5\n6" a part is read
        ({"kind": "math"}, ["\\$20", "", "so ####", "1 1/2", "5\n6", "0x1F"]),
        ({"kind": "choice"}, ["\\$20", "", "E", "1e5"]),
        ({"kind": "exact", "after": ["####"]}, ["", "so ####"]),
        ({"kind": "f1"}, ["A"]),  # an article; SQuAD has questions without an answer
        (
            {"kind": "sum", "parts": [{"reward": {"kind": "exact"}}, {"reward": {"kind": "format", "pattern": "a"}}]},
            [""],
        ),
    ],
)
def test_answers_that_no_completion_could_match(spec, wrong):
    answers = ["A", "(b)", "\\$20", "", "so ####", "E", "1e5"]
    if spec["kind"] == "math":
        answers += ["1 1/2", "5\n6", "0x1F", "1e-400", "\u0665", "3/2"]
    answers = [answer for answer in answers if spec["kind"] != "choice" or answer != "so ####"]
    assert [answer for answer, _ in unreadable(spec, answers)] == wrong


def test_an_answer_that_hangs_its_reader_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("cpt.rewards.answers.time_limit", lambda spec: 0.001)
    spec = {"kind": "math", "timeout": 5.0}
    ((_, why),) = unreadable(spec, [r"\int_0^1 x^2 \sin(x) + \sqrt{x} dx" * 40])
    assert "math fails on it (took more than" in why


def test_a_sum_by_hand():
    parts = [
        {"reward": {"kind": "exact"}, "weight": 1.0},
        {"reward": {"kind": "format", "pattern": "!$"}, "weight": 0.5},
    ]
    judge = build({"kind": "sum", "parts": parts})
    assert judge("4!", {"answer": "4!"}) == 1.5
    assert judge("5!", {"answer": "4!"}) == 0.5


MODULE = """
import math, os, threading, time

def judge(completion, row):
    return {"right": lambda: 1.0, "raises": lambda: 1 / 0, "none": lambda: None, "nan": lambda: math.nan,
            "words": lambda: "one", "dies": lambda: os._exit(3), "prints": lambda: print("noise") or 0.5,
            "hangs": lambda: time.sleep(600), "forks": lambda: 0.0 if os.fork() == 0 else 1.0, "babbles": babble,
            "late": lambda: threading.Timer(0.05, os._exit, (0,)).start() or 1.0, "inf": lambda: -math.inf,
            "huge": lambda: 1e308, "integer": lambda: 10**400, "lines": two_lines}[completion]()

def two_lines():
    raise ValueError("one\\n  two \\ud800")

def babble():
    for descriptor in range(3, 20):
        try: os.write(descriptor, b"3\\n{junk\\n")
        except OSError: pass
    return 1.0
"""


def function(folder, limit: float = 1.0) -> dict:
    (folder / "mine.py").write_text(MODULE)
    return {"kind": "function", "path": "mine:judge", "folder": str(folder), "timeout": limit}


class Odd:
    def __float__(self):
        raise RuntimeError("two elements")


@pytest.mark.parametrize(
    "value, told",
    [
        (True, {"value": 1.0}),
        (numpy.float32(0.5), {"value": 0.5}),
        (numpy.array([1.0]), {"value": 1.0}),
        ({"score": 1}, {"error": "raised", "message": "returned {'score': 1}, which is not a number"}),
        (Odd(), {"error": "raised", "message": "returned a Odd, which is not a number: RuntimeError: two elements"}),
        (numpy.nan, {"error": "nan", "message": "returned NaN"}),
    ],
)
def test_what_verifiers_return(value, told):
    assert call_one(lambda completion, row: value, "", {}) == told


def test_no_verifier_stops_the_run(tmp_path):
    """Each failure costs its own completion the score, is counted, and the others are scored."""
    asked = ["right", "raises", "none", "nan", "words", "dies", "prints", "hangs", "right"]
    with Scorer(function(tmp_path)) as scorer:
        start = time.monotonic()
        scores = scorer.score(asked, [{"id": f"row-{name}"} for name in asked])
        assert time.monotonic() - start < 15
        assert [score.value for score in scores] == [1.0, None, None, None, None, None, 0.5, None, 1.0]
        assert dict(scorer.errors) == {"raised": 2, "none": 1, "nan": 1, "died": 1, "timeout": 1}
        assert "ZeroDivisionError" in scores[1].error and "took more than 1 s" in scores[7].error
        assert "row-raises" in scorer.examples["raised"]
        again = scorer.score(["right"], [{}])
    assert again[0].value == 1.0, "the workers do not come back after a loss"


@pytest.mark.parametrize(
    "asked, values, errors",
    [
        (["forks"] * 6 + ["right"], [1.0] * 7, {}),
        (["babbles", "right", "babbles"], [None, 1.0, None], {"garbled": 2}),
        (["inf", "huge", "integer", "right"], [None, None, None, 1.0], {"inf": 3}),
    ],
)
def test_what_verifiers_do_to_their_workers(asked, values, errors, tmp_path):
    """Forked verifiers answer once, what they write into the pipe costs them the call, and scores stay finite."""
    with Scorer(function(tmp_path, 5.0)) as scorer:
        assert [score.value for score in scorer.score(asked, [{}] * len(asked))] == values
        assert dict(scorer.errors) == errors and scorer.scored == len(asked)


@pytest.mark.parametrize("row", [{}, {"long": "x" * 300_000}], ids=["short", "long"])
def test_a_worker_that_dies_between_two_calls(tmp_path, row):
    """Its next job goes to another worker: nothing is lost, and no broken pipe comes up."""
    with Scorer(function(tmp_path, 5.0), workers=1) as scorer:
        assert scorer.score(["late"], [row])[0].value == 1.0
        time.sleep(0.5)
        assert scorer.score(["right"], [row])[0].value == 1.0


def test_a_long_row_for_a_worker_that_never_comes_up(tmp_path, monkeypatch):
    monkeypatch.setattr("cpt.rewards.workers.START_LIMIT", 1.0)
    (tmp_path / "slow.py").write_text("import time; time.sleep(600)\n")
    spec = {"kind": "function", "path": "slow:judge", "folder": str(tmp_path), "timeout": 1.0}
    with Scorer(spec) as scorer:
        assert scorer.score(["x"], [{"long": "x" * 300_000}])[0].error.startswith("timeout: took more than 1 s")


def test_a_message_of_two_lines_is_one(tmp_path):
    with Scorers() as scorers:
        scorers.get(function(tmp_path)).score(["lines"], [{"id": "a"}])
        (line,) = failure_lines(scorers.failures())
        assert line == "verifier function: 1 x raised, for example: ValueError: one two ? (row a)"


def test_the_same_verifier_has_one_set_of_workers(tmp_path):
    spec = function(tmp_path)
    with Scorers() as scorers:
        assert scorers.get(spec) is scorers.get(dict(spec))
        scorers.get(spec).score(["raises"], [{"id": "a"}])
        assert failure_lines(scorers.failures() * 2) == [  # of two processes
            "verifier function: 2 x raised, for example: ZeroDivisionError: division by zero (row a)"
        ]


def test_a_verifier_that_cannot_be_built(tmp_path):
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    spec = {"kind": "function", "path": "broken:judge", "folder": str(tmp_path), "timeout": 5.0}
    with Scorer(spec) as scorer:
        score = scorer.score(["x"], [{}])[0]
    assert score.value is None and "cannot be built: ModuleNotFoundError" in score.error


def test_a_sum_with_a_user_function_is_killable_too(tmp_path):
    parts = [{"reward": {"kind": "exact"}, "weight": 1.0}, {"reward": function(tmp_path, 0.5), "weight": 1.0}]
    with Scorer({"kind": "sum", "parts": parts}) as scorer:
        scores = scorer.score(["right", "hangs"], [{"answer": "right"}, {"answer": "hangs"}])
    assert scores[0].value == 2.0 and scores[1].error.startswith("timeout")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, number):
    """Even a worker that hangs must not outlive a run that was killed for long: its pipe ends, or its call does."""
    code = (
        "import sys, os; from cpt.rewards import Scorer\n"
        f"scorer = Scorer({function(tmp_path)!r}); scorer.score(['right'], [{{}}])\n"
        "print([w.process.pid for w in scorer._pool.workers][0], flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, number)
    parent.wait(timeout=10)
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_what_is_missing_is_found_without_running_it(tmp_path):
    from cpt.rewards.function import missing

    spec = function(tmp_path)
    assert missing(spec) is None
    assert "has no function jugde" in missing(spec | {"path": "mine:jugde"})
    assert "no module nowhere" in missing(spec | {"path": "nowhere:judge"})
    (tmp_path / "bad.py").write_text("def judge(:\n")
    assert "bad.py:1: " in missing(spec | {"path": "bad:judge"})
    (tmp_path / "nul.py").write_bytes(b"def judge(c, r): pass\n\x00")
    assert "nul.py" in missing(spec | {"path": "nul:judge"})
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    assert "latin.py" in missing(spec | {"path": "latin:judge"})


@pytest.mark.parametrize(
    "text, there",
    [
        ("judge: object = lambda c, r: 1.0", True),
        ("judge, other = print, 2", True),
        ("if True:\n  def judge(c, r): return 1.0", True),
        ("try:\n  from nowhere import judge\nexcept ImportError:\n  judge = print", True),
        ("from os.path import *", True),
        ("class judge: pass", True),
        ("def other():\n  judge = 1", False),
        ("class Other:\n  def judge(self): pass", False),
        ("print(judge)", False),
    ],
)
def test_where_a_function_may_stand(text, there, tmp_path):
    from cpt.rewards.function import missing

    (tmp_path / "package").mkdir()
    for file in (tmp_path / "mine.py", tmp_path / "package" / "__init__.py"):
        file.write_text(text + "\n")
    for module in ("mine", "package"):
        found = missing({"path": f"{module}:judge", "folder": str(tmp_path)})
        assert (found is None) is there, found
