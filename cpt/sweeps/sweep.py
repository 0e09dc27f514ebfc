"""Running a sweep: cell by cell what is not done yet; then the comparison."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpt.comparison.compare import Comparison, compare_folders
from cpt.comparison.writing import write
from cpt.errors import UserError
from cpt.files import write_json
from cpt.report.formatting import duration, score
from cpt.screen import VERBOSE, Screen
from cpt.sizes import many
from cpt.stop import current
from cpt.sweeps.cells import Cell
from cpt.sweeps.plan import Plan
from cpt.sweeps.running import Outcome, place_of, results_of, run_cell

DONE, BEGUN, MISSING = "done", "begun", "to do"


@dataclass
class SweepResult:
    """What became of a sweep: the cells that failed, each with why, and the comparison (None: too few are done)."""

    plan: Plan = field(repr=False)
    failed: dict[str, str]
    comparison: Comparison | None = field(repr=False, default=None)
    chosen: dict[str, Any] | None = None


def state_of(cell: Cell, out: Path) -> str:
    place = place_of(cell, out)
    return DONE if results_of(place.run) else BEGUN if place.run.is_dir() else MISSING


def listing(plan: Plan) -> str:
    """All cells with their numbers, states and folders."""
    cells = [*plan.tuning, *plan.judged()]
    lines = [
        f"{number:>3}  {state_of(cell, plan.out):6} {title(cell)}  ({cell.name})" for number, cell in enumerate(cells)
    ]
    if plan.trials and plan.chosen() is None:
        last = len(cells) + len(plan.sweep.seeds) - 1
        lines.append(
            f"then {len(cells)} to {last}: the best values by {plan.sweep.tune.by}, on the stream that is judged"
        )
    return "\n".join([f"{plan.sweep.name}: {many(len(cells), 'cell')} in {plan.out}", *lines])


def title(cell: Cell) -> str:
    return f"{cell.label}, seed {cell.seed}"


def run_sweep(plan: Plan, screen: Screen, jobs: int = 1, runner: Callable[..., Outcome] = run_cell) -> SweepResult:
    """Run what is not done, one cell after the other (or `jobs` at a time), and compare; a cell that fails stops no other.

    Raises:
        Interrupted: a signal came; what runs has saved its place, and the same command goes on.
        UserError: no cell of the tuning is left to choose from.
    """
    failed: dict[str, str] = {}
    with current().within(None):
        if plan.trials:
            failed |= run_cells(plan, plan.tuning, screen, jobs, runner)
        choice = choose(plan, screen) if plan.trials else None
        failed |= run_cells(plan, plan.judged(), screen, jobs, runner)
    result = SweepResult(plan, failed, chosen=choice)
    write_record(result)
    result.comparison = compared(plan, screen)
    return result


def run_one(plan: Plan, number: int, screen: Screen) -> SweepResult:
    """Run one cell by its number; the last one that is done makes the comparison."""
    cells = [*plan.tuning, *plan.judged()]
    if plan.trials and number >= len(plan.tuning) + len(plan.cells) and plan.chosen() is None:
        raise UserError(
            f"--cell {number}: has the values that are tuned: run the cells 0 to {len(plan.tuning) - 1} first"
        )
    if not 0 <= number < len(cells):
        if plan.trials and number < len(plan.tuning) + 2 * len(plan.cells):
            screen.line(f"cell {number}: the best values are the recipe's own, so there is nothing more to run")
            return SweepResult(plan, {})
        raise UserError(f"--cell {number}: there are {len(cells)} cells, 0 to {len(cells) - 1}")
    with current().within(None):
        failed = run_cells(plan, [cells[number]], screen, 1, run_cell)
    result = SweepResult(plan, failed)
    if all(state_of(cell, plan.out) == DONE for cell in plan.judged()) and (not plan.trials or plan.chosen()):
        result.comparison = compared(plan, screen)
    return result


def run_cells(
    plan: Plan, cells: Sequence[Cell], screen: Screen, jobs: int, runner: Callable[..., Outcome]
) -> dict[str, str]:
    """Run those that are not done; {name: why} of those that failed."""
    waiting = [cell for cell in cells if state_of(cell, plan.out) != DONE]
    if len(waiting) < len(cells):
        screen.line(f"{len(cells) - len(waiting)} of {many(len(cells), 'cell')} are done already")
    failed: dict[str, str] = {}
    start, ended = time.monotonic(), 0
    threads = {} if jobs == 1 else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}

    def work(cell: Cell) -> None:
        nonlocal ended
        current().check()
        if jobs == 1:
            screen.line(f"[{ended + 1}/{len(waiting)}] {title(cell)}: log: {place_of(cell, plan.out).log}")
        outcome = runner(cell, plan.out, plan.sweep.launcher, threads, screen.level >= VERBOSE)
        ended += 1
        left = (time.monotonic() - start) / ended * (len(waiting) - ended)
        rest = f"; about {duration(left)} left" if ended < len(waiting) else ""
        screen.result(f"[{ended}/{len(waiting)}] {title(cell)}: {told(cell, outcome, plan.out)}{rest}")
        if not outcome.is_done:
            failed[cell.name] = outcome.why or f"exit code {outcome.code}"

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, waiting)) if jobs > 1 else [work(cell) for cell in waiting]
    return failed


def told(cell: Cell, outcome: Outcome, out: Path) -> str:
    """How a cell ended, in a few words."""
    if not outcome.is_done:
        return f"FAILED with exit code {outcome.code}: {outcome.why} (log: {place_of(cell, out).log})"
    results = results_of(place_of(cell, out).run)
    if results is None:
        return f"ended with exit code {outcome.code}, but its results are not complete"
    gates = [gate["name"] for gate in results["gates"] if not gate["passed"]]
    broken = f", failed gates: {', '.join(gates)}" if gates else ""
    return f"average accuracy {score(results['metrics']['average_accuracy'])} in {duration(outcome.seconds)}{broken}"


def choose(plan: Plan, screen: Screen) -> dict[str, Any]:
    """The best values, told with what each combination reached. Raises UserError where a cell is missing."""
    if (choice := plan.chosen()) is None:
        raise UserError(
            f"{plan.sweep.name}: not all cells of the tuning are done, so no value can be chosen: see the lines above; the "
            "same command runs them again"
        )
    trial, means = choice
    for label, mean in means.items():
        mark = "  <- taken" if label == trial.cells[0].label else ""
        screen.result(f"{label}: {plan.sweep.tune.by} {score(mean)}{mark}")
    return {"by": plan.sweep.tune.by, "means": means, "values": trial.values}


def compared(plan: Plan, screen: Screen) -> Comparison | None:
    """Compare the cells that are done, and write the report into the sweep's folder. Raises UserError as `cpt compare`."""
    done = [cell for cell in plan.judged() if state_of(cell, plan.out) == DONE]
    if len(done) < 2:
        screen.line("nothing to compare: fewer than two cells are done")
        return None
    folders = {place_of(cell, plan.out).run: cell.label for cell in done}
    first = next((folder for folder, label in folders.items() if label == plan.baseline), None)
    comparison = compare_folders(list(folders), first, folders)
    report = write(comparison, plan.out)
    screen.result(str(comparison))
    screen.result(f"report: {report}")
    return comparison


def write_record(result: SweepResult) -> None:
    """sweep.json: the cells, where they are, and what was chosen."""
    plan = result.plan
    cells = [
        {
            "number": number,
            "label": cell.label,
            "seed": cell.seed,
            "folder": str(place_of(cell, plan.out).run.relative_to(plan.out)),
            "state": state_of(cell, plan.out),
            "failed": result.failed.get(cell.name),
        }
        for number, cell in enumerate([*plan.tuning, *plan.judged()])
    ]
    plan.out.mkdir(parents=True, exist_ok=True)
    write_json(plan.out / "sweep.json", {"format": 1, "name": plan.sweep.name, "cells": cells, "tuned": result.chosen})
