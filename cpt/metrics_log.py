"""metrics.jsonl and during.jsonl: a line for each log of a trainer, or evaluation within a stage, appended.

Lines after the place that a run resumes from are dropped."""

import json
from collections.abc import Callable
from pathlib import Path

from cpt.disk import writing
from cpt.files import write_whole
from cpt.json_lines import places, read_lines
from cpt.records import Logged


def append(log: Path, line: dict) -> None:
    text = json.dumps(line) + "\n"
    with writing(log, len(text)), log.open("a", encoding="utf-8") as file:
        file.write(text)


def forget(log: Path, keep: Callable[[dict], bool], form: type = Logged) -> None:
    """Drop the lines that `keep(line)` refuses, and a torn last one."""
    if log.exists():
        lines, _ = read_lines(log.read_bytes(), form)
        rewrite(log, [line for line in lines if keep(line)])


def mend(log: Path, form: type = Logged) -> list[str]:
    """Move damaged lines to a file beside the log; what was done, in a line (none where no line is damaged)."""
    content = log.read_bytes() if log.exists() else b""
    lines, damaged = read_lines(content, form)
    if not damaged:
        return []
    aside = log.with_suffix(".damaged")
    with writing(aside, len(content)), aside.open("ab") as file:
        file.writelines(each.line + b"\n" for each in damaged)
    rewrite(log, lines)
    return [f"{log}: damaged: {places(damaged)}: moved to {aside.name}; the curves do not show them"]


def rewrite(log: Path, lines: list[dict]) -> None:
    write_whole(log, "".join(json.dumps(line) + "\n" for line in lines))
