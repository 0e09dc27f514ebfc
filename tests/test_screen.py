"""What the user sees: lines, levels, the matrix; the libraries' noise goes to the log."""

import io
import logging
import re
import warnings

from cpt import screen
from cpt.screen import NORMAL, QUIET, Screen, logs_to


def printed(level: int, say) -> str:
    stream = io.StringIO()
    say(Screen(level, stream))
    return stream.getvalue()


def test_levels():
    def say(it):
        it.line("a line")
        it.result("a result")
        it.warn("careful")

    assert printed(QUIET, say) == "a result\nwarning: careful\n"
    assert printed(NORMAL, say) == "a line\na result\nwarning: careful\n"


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
