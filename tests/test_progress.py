"""Progress: paces, remaining time, lines in a file that also come where nothing moves, a bar on a terminal."""

import io
import os
import pty
import subprocess
import sys
import time

import pytest

from cpt import progress
from cpt.progress import Pace, clock, fields_text, pace_text
from cpt.screen import QUIET, Screen


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (75, "1:15"), (3600, "1:00:00"), (7384.6, "2:03:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    "rate, text",
    [
        (12.34, "12.3 step/s"),
        (1.0, "1.0 step/s"),
        (0.5, "2.0 s/step"),
        (1 / 132, "132.0 s/step"),
        (0.0, ""),
        (None, ""),
    ],
)
def test_a_slow_pace_is_said_in_seconds(rate, text):
    assert pace_text(rate, "step") == text


def test_fields():
    assert fields_text({"loss": 0.123456, "kl": 12345.0}) == "loss 0.123  kl 1.23e+04"


def pace_of(*moments: tuple[float, int]) -> Pace:
    pace = Pace()
    for now, done in moments:
        pace.note(now, done)
    return pace


def test_a_slow_start_is_forgotten():
    """An hour for the first step, then one in ten seconds: two minutes before the end it says two minutes."""
    pace = pace_of((0, 0), (3600, 1), *((3600 + 10 * step, 1 + step) for step in range(1, 60)))
    assert pace.rate(3600 + 590) == pytest.approx(0.1)
    slow = pace_of((0, 0), (3600, 1), *((3600 + 300 * step, 1 + step) for step in range(1, 8)))
    assert slow.rate(3600 + 2100) == pytest.approx(1 / 300), "of steps that take minutes the last few count"


def test_a_pace_falls_while_nothing_moves():
    pace = pace_of((0, 0), (10, 1), (20, 2))
    assert pace.rate(20) == pace.rate(25) == pytest.approx(0.1)
    assert pace.rate(120) == pytest.approx(2 / 80)
    assert Pace().rate(5) is None and pace_of((3, 7)).rate(9) is None
    assert pace_of((0, 40), (0, 40), (5, 40)).rate(9) is None, "where a resumed stage begins is no progress"


@pytest.fixture
def lines(monkeypatch):
    """What is printed to a file while `now[0]`, the time, is moved by hand."""
    now, stream = [100.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now, Screen(stream=stream), lambda: stream.getvalue().splitlines()


def test_lines_in_a_file(lines):
    now, screen, printed = lines
    with screen.progress("reverse 0-sft", 100) as bar:
        bar.update(0)
        for step in range(1, 61):
            now[0] += 1.0
            bar.update(step, loss=0.5)
    assert printed() == [
        "reverse 0-sft 10/100  1.0 step/s  1:30 left  loss 0.5",
        "reverse 0-sft 40/100  1.0 step/s  1:00 left  loss 0.5",
    ]


def test_lines_of_slow_steps(lines):
    now, screen, printed = lines
    with screen.progress("reverse 0-sft", 20) as bar:
        bar.update(0)
        for step in range(1, 4):
            now[0] += 100.0
            bar.update(step)
    assert printed()[-1] == "reverse 0-sft 3/20  100.0 s/step  28:20 left"


def test_lines_come_where_nothing_moves(monkeypatch):
    monkeypatch.setattr(progress, "FIRST_LINE", 0.5)
    monkeypatch.setattr(progress, "BETWEEN_LINES", 0.5)
    stream = io.StringIO()
    screen = Screen(stream=stream)

    def wait_for(lines: int) -> list[str]:
        deadline = time.monotonic() + 20
        while len(stream.getvalue().splitlines()) < lines and time.monotonic() < deadline:
            time.sleep(0.05)
        return stream.getvalue().splitlines()

    with screen.progress("evaluating 00-base", 280, "answer"):
        assert wait_for(2)[:2] == ["evaluating 00-base 0/280  0:01 so far", "evaluating 00-base 0/280  0:02 so far"]
        with screen.progress("loading the model"):
            before = len(stream.getvalue().splitlines())
            assert {line.split("  ")[0] for line in wait_for(before + 2)[before:]} == {"loading the model"}
        before = len(stream.getvalue().splitlines())
        assert wait_for(before + 1)[-1].startswith("evaluating 00-base 0/280")
    before = stream.getvalue()
    time.sleep(1.5)
    assert stream.getvalue() == before, "it is over and still tells"


def test_quiet_shows_none(monkeypatch):
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    stream = io.StringIO()
    with Screen(QUIET, stream).progress("a", 3) as bar:
        bar.update(1)
    monkeypatch.setenv("RANK", "1")
    with Screen(stream=stream).progress("a", 3) as bar:
        bar.update(1)
    assert stream.getvalue() == ""


def test_on_a_terminal_there_is_a_bar():
    code = (
        "from cpt.screen import Screen\n"
        "screen = Screen()\n"
        "with screen.progress('loading'):\n"
        "    with screen.progress('reverse', 10) as bar:\n"
        "        for i in range(11): bar.update(i, reward=0.25)\n"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment)
    code = process.wait(timeout=60)
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    os.close(ours)
    assert code == 0, seen
    assert "\x1b[" in seen and "loading" in seen and "reverse" in seen and "10/10" in seen and "reward 0.25" in seen
