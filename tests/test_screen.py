"""What the user sees: lines in a file, a bar on a terminal, clocks, levels; the libraries' noise goes to the log."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import warnings

import pytest

from cpt import screen
from cpt.screen import NORMAL, QUIET, Screen, clock, logs_to, show_fields


def printed(level: int, say) -> str:
    stream = io.StringIO()
    say(Screen(level, stream))
    return stream.getvalue()


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (75, "1:15"), (3600, "1:00:00"), (7384.6, "2:03:05"), (float("inf"), "?")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_levels():
    def say(it):
        it.line("a line")
        it.result("a result")
        it.warn("careful")

    assert printed(QUIET, say) == "a result\nwarning: careful\n"
    assert printed(NORMAL, say) == "a line\na result\nwarning: careful\n"


def test_progress_in_a_file_is_plain_lines_with_rate_and_rest(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])

    def say(it):
        with it.progress("reverse 0-sft", 100) as bar:
            bar.update(0)
            for step in range(1, 61):
                now[0] += 1.0
                bar.update(step, loss=0.5)

    lines = printed(NORMAL, say).splitlines()
    assert lines == [
        "reverse 0-sft 30/100  1.0 step/s  1:10 left  loss 0.5",
        "reverse 0-sft 60/100  1.0 step/s  0:40 left  loss 0.5",
    ]


def test_the_matrix_in_a_file_has_no_control_codes():
    text = printed(
        NORMAL, lambda it: it.matrix(["a", "b"], ["00-base", "01-a"], [[0.1, 0.2], [0.9, 0.2]], {"g": [1.0, 0.5]})
    )
    assert "\x1b" not in text
    rows = [line.split() for line in text.splitlines() if line.strip() and "─" not in line]
    assert rows == [
        ["after", "a", "b", "g"],
        ["00-base", "0.100", "0.200", "1.000"],
        ["01-a", "0.900", "0.200", "0.500"],
    ]


def test_the_matrix_of_a_long_stream_loses_no_column(monkeypatch):
    """Neither in a file nor on a narrow terminal, where numbers stand for the tasks."""
    tasks = [f"customer-support-{i}" for i in range(1, 9)]
    points = ["00-base", "01-customer-support-1"]

    def say(it):
        it.matrix(tasks, points, [[0.1] * 8, [0.2] * 8], {"general": [0.9, 0.8]})

    in_a_file = [line.split() for line in printed(NORMAL, say).splitlines() if line.strip()]
    assert in_a_file[0] == ["after", *tasks, "general"]
    assert in_a_file[-1] == [points[1], *["0.200"] * 8, "0.800"]
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(NORMAL, say))
    on_a_terminal = [line.split() for line in text.splitlines() if line.strip()]
    assert on_a_terminal[0] == ["after", *(f"0{i}" for i in range(1, 9)), "general"]
    assert on_a_terminal[-1] == in_a_file[-1] and max(map(len, text.splitlines())) <= 100


def test_on_a_terminal_there_is_a_bar():
    code = (
        "from cpt.screen import Screen\n"
        "with Screen().progress('reverse', 10) as bar:\n"
        "    for i in range(11): bar.update(i, reward=0.25)\n"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment)
    process.wait(timeout=60)
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\x1b[" in seen and "reverse" in seen and "10/10" in seen and "reward 0.25" in seen


def test_fields():
    assert show_fields({"loss": 0.123456, "kl": 12345.0}) == "loss 0.123  kl 1.23e+04"


def test_the_libraries_speak_to_the_log(tmp_path, capfd):
    screen.hush_libraries()
    with logs_to(tmp_path / "run.log"):
        logging.getLogger("transformers.trainer").warning("noise of a library")
        logging.getLogger("datasets.packaged_modules.json.json").error("noise of another")
        warnings.warn("old thing", FutureWarning, stacklevel=1)
    said = capfd.readouterr()
    assert said.out == said.err == ""
    log = (tmp_path / "run.log").read_text()
    assert "noise of a library" in log and "noise of another" in log and "old thing" in log
    with logs_to(tmp_path / "run.log", screen.VERBOSE):
        logging.getLogger("transformers.trainer").warning("noise again")
    assert "noise again" in capfd.readouterr().err


def test_other_ranks_are_silent(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert printed(NORMAL, lambda it: it.result("a result")) == ""
