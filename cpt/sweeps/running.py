"""Running a cell: `cpt run` in a process of its own, so that one that fails takes no other with it."""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cpt.errors import Interrupted
from cpt.files import whole_file
from cpt.processes import python
from cpt.recipe import dump
from cpt.stop import current
from cpt.sweeps.cells import Cell

LOOKS = 0.2  # seconds between two looks at a cell's process
GATE_FAILED = 3
LAST_LINES = 3  # of a failed cell's output, on the screen


class Outcome(NamedTuple):
    """How a cell ended: `code` is that of `cpt run`; `why` the last words of one that failed."""

    code: int
    seconds: float
    why: str = ""

    @property
    def is_done(self) -> bool:
        return self.code in (0, GATE_FAILED)


class Place(NamedTuple):
    """Where a cell's files are, in the sweep's folder."""

    recipe: Path
    run: Path
    log: Path


def place_of(cell: Cell, out: Path) -> Place:
    folder = out / "cells"
    return Place(folder / f"{cell.name}.yaml", folder / cell.name, folder / f"{cell.name}.log")


def results_of(run: Path) -> dict | None:
    """results.json of a run that is complete; None where it is not, or is damaged (`cpt run` then says what is wrong)."""
    try:
        results = json.loads((run / "results.json").read_text("utf-8"))
        return results if results["complete"] is True else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run_cell(
    cell: Cell,
    out: Path,
    launcher: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    verbose: bool = False,
) -> Outcome:
    """Run the cell, or resume it. Its output goes to its log, or with `verbose` to the screen.

    Raises:
        Interrupted: a signal came; the cell has saved its place.
    """
    place, start = place_of(cell, out), time.monotonic()
    place.recipe.parent.mkdir(parents=True, exist_ok=True)
    write_recipe(cell, place.recipe)
    words = ["run", str(place.recipe), "--out", str(place.run), *([] if verbose else ["--quiet"])]
    command = [*launcher, *words] if launcher else python("cpt", *words)
    with place.log.open("a", encoding="utf-8") as log:
        begin = log.tell()
        output = None if verbose else log
        try:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=os.environ | dict(environment or {}), start_new_session=True
            )
        except OSError as error:
            return Outcome(1, 0.0, f"launcher: {command[0]}: {error.strerror}")
        code = waited(process)
    why = "" if code in (0, GATE_FAILED) or verbose else last_lines(place.log, begin)
    return Outcome(code, time.monotonic() - start, why)


def waited(process: subprocess.Popen) -> int:
    """The exit code; a signal that comes to us goes on to the process, which saves its place."""
    stop, signalled = current(), False
    while True:
        try:
            code = process.wait(LOOKS)
        except subprocess.TimeoutExpired:
            if stop.signal is not None and not signalled:
                signalled = True
                process.send_signal(stop.signal)
            continue
        if signalled or stop.signal is not None:
            raise Interrupted(stop.signal)
        return code


def write_recipe(cell: Cell, file: Path) -> None:
    """The resolved recipe, which `cpt run` takes by itself too."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    with whole_file(file) as stream:
        yaml.dump(dump(cell.recipe), stream)


def last_lines(log: Path, begin: int) -> str:
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("cpt: ")]
    return "; ".join((told or lines)[-LAST_LINES:]) or "it said nothing"
