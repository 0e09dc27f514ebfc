"""Make a table of eval/tables cell by cell: every method, with every seed, at every budget; then say what the table says.

    scripts/reproduce_hybrid.sh                 or: python scripts/reproduce.py hybrid
    python scripts/reproduce.py hybrid --show   only the table, of the cells that there are

A cell is one `cpt run`. Its numbers are kept in eval/reference/TABLE.json as soon as it ends, so that the script continues
with the next one when it is called again; a run that was interrupted is resumed as well. A cell whose recipe has changed is
made again, and one whose method has: `revision` of a method in the table's file is raised where the code computes or counts
something else than before. The table goes to eval/reference/TABLE.md: means over the seeds with 95 % intervals of Student's
t, and the differences of neighbours in the published ranking, paired by seed.
"""

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ruamel.yaml import YAML
from scipy.stats import t

HERE = Path(__file__).parent.parent
NEAR = 0.05  # of the budget: so near to it a cell's tokens count as equal
COLUMNS = {
    "learning_accuracy": "learning",
    "average_accuracy": "final average",
    "forgetting": "forgetting",
    "general": "general",
}


class Cell(NamedTuple):
    """One run: a method with a seed at a budget (`updates` or `tokens`), and how its steps are scaled."""

    method: str
    budget: str
    seed: int
    scale: float = 1.0

    @property
    def key(self) -> str:
        return f"{self.method}/{self.budget}/{self.seed}"


class Table:
    """A table's plan, and the cells that are there."""

    def __init__(self, name: str, runs: Path):
        self.plan = YAML(typ="safe").load((HERE / "eval" / "tables" / f"{name}.yaml").read_text())
        self.file, self.runs, self.lock = HERE / "eval" / "reference" / f"{name}.json", runs / name, threading.Lock()
        self.cells = json.loads(self.file.read_text())["cells"] if self.file.exists() else {}

    def words(self, cell: Cell) -> list[str]:
        """The recipe and the overrides of a cell."""
        method = self.plan["methods"][cell.method]
        steps = {key: max(1, round(number * cell.scale)) for key, number in method["steps"].items()}
        scaled = [f"{key}={number}" for key, number in steps.items()]
        return [method["recipe"], *self.plan["set"], *method.get("set", []), *scaled, f"seed={cell.seed}"]

    def composed(self, cell: Cell) -> str:
        """The digest of all that a cell's recipe says, so that a cell is what its recipe and its method are today."""
        from cpt.recipe import load

        recipe, *overrides = self.words(cell)
        text = load(recipe, overrides).model_dump_json(exclude={"description"}, exclude_defaults=True)
        revision = self.revision(cell.method)
        text += f" revision {revision}" if revision > 1 else ""
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def revision(self, method: str) -> int:
        return self.plan["methods"][method].get("revision", 1)

    def older(self, method: str, budget: str) -> int:
        """How many of the cells that are there were made by an earlier revision of the method."""
        cells = [self.cells.get(Cell(method, budget, seed).key) for seed in self.plan["seeds"]]
        return sum(cell is not None and cell.get("revision", 1) < self.revision(method) for cell in cells)

    def is_there(self, cell: Cell) -> bool:
        return self.cells.get(cell.key, {}).get("recipe") == self.composed(cell)

    def keep(self, cell: Cell, found: dict) -> None:
        with self.lock:
            self.cells[cell.key] = found
            order = {key: place for place, key in enumerate(self.plan["methods"])}
            cells = sorted(self.cells.items(), key=lambda item: (order.get(item[0].split("/")[0], 99), item[0]))
            beside = self.file.with_suffix(".part")
            self.file.parent.mkdir(exist_ok=True)
            lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in cells)
            beside.write_text(f'{{"format": 1, "cells": {{\n{lines}\n}}}}\n')
            beside.replace(self.file)

    def values(self, method: str, budget: str, column: str) -> np.ndarray:
        """(seeds): a column of the seeds that are there, with nan for the others."""
        if method == self.plan.get("tokens_of"):  # its own updates are the budget
            budget = "updates"
        cells = [self.cells.get(Cell(method, budget, seed).key) for seed in self.plan["seeds"]]
        return np.array([cell[column] if cell else np.nan for cell in cells], float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a file of eval/tables, without .yaml")
    parser.add_argument("--show", action="store_true", help="make the table of the cells that are there; run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread; default: %(default)s")
    parser.add_argument("--runs", type=Path, default=HERE / "runs" / "tables", help="default: runs/tables")
    parser.add_argument("--methods", nargs="*", help="only these rows")
    asked = parser.parse_args()
    table = Table(asked.table, asked.runs)
    if unknown := set(asked.methods or ()) - set(table.plan["methods"]):
        parser.error(f"no method {', '.join(sorted(unknown))} in {asked.table}: {', '.join(table.plan['methods'])}")
    if not asked.show:
        make(table, asked.methods or list(table.plan["methods"]), asked.jobs)
    said = markdown(table)
    table.file.with_suffix(".md").write_text(said)
    print(said)


def make(table: Table, methods: list[str], jobs: int) -> None:
    """Run what is not there, seed by seed, so that a table of fewer seeds is whole first."""
    for seed in table.plan["seeds"]:
        for budget in table.plan["budgets"]:
            first = table.plan.get("tokens_of")  # its tokens are the budget of the others
            cells = [Cell(method, budget, seed) for method in methods if not (budget == "tokens" and method == first)]
            fill = at_equal_tokens if budget == "tokens" else at_equal_updates
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(fill, itertools.repeat(table), cells))  # raises what a run raised


def at_equal_updates(table: Table, cell: Cell) -> None:
    if not table.is_there(cell):
        run(table, cell)


def at_equal_tokens(table: Table, cell: Cell) -> None:
    """Scale the steps to the budget by what the method took at equal updates; where that missed, again by what it took then.

    Tokens do not follow the steps where answers grow or shrink as training continues.
    """
    budget = table.cells[Cell(table.plan["tokens_of"], "updates", cell.seed).key]["tokens"]
    same = table.cells[cell._replace(budget="updates").key]
    if is_near(same["tokens"], budget):
        table.keep(cell, same)
        return
    first = cell._replace(scale=budget / same["tokens"])
    kept = table.cells.get(cell.key, {})
    tried = kept.get("first", kept)
    if tried.get("recipe") != table.composed(first):
        tried = run(table, first)
    second = first._replace(scale=first.scale * budget / tried["tokens"])
    if not is_near(tried["tokens"], budget) and not table.is_there(second):
        run(table, second, first={name: tried[name] for name in ("recipe", "tokens")})


def is_near(tokens: int, budget: int) -> bool:
    return abs(tokens / budget - 1) <= NEAR


def run(table: Table, cell: Cell, **besides) -> dict:
    """Run the cell, keep what it showed, and return that. Ends the script where the run fails."""
    out = table.runs / cell.key.replace("/", "-") / table.composed(cell)
    command = [sys.executable, "-m", "cpt", "run", *table.words(cell), "--out", str(out), "--quiet"]
    start, threads = time.monotonic(), {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, cwd=HERE, env=os.environ | threads, capture_output=True, text=True)
    if done.returncode not in (0, 3):  # 3: a gate failed, which the numbers show
        sys.exit(f"{cell.key} ended with code {done.returncode}: {' '.join(command)}\n{done.stderr[-2000:]}")
    results = json.loads((out / "results.json").read_text())
    stages = results["stages"]
    found = {
        "recipe": table.composed(cell),
        **({"revision": table.revision(cell.method)} if table.revision(cell.method) > 1 else {}),
        "commit": commit(),
        **{column: results["metrics"][column] for column in COLUMNS if column in results["metrics"]},
        "general": results["held_out"]["general"][-1],
        "learnt": [round(results["accuracy"][i + 1][i], 4) for i in range(len(results["tasks"]))],
        "updates": sum(stage["steps"] for stage in stages),
        "tokens": sum(stage["train_tokens"] + stage["rollout_tokens"] for stage in stages),
        "seconds": round(time.monotonic() - start, 1),
        **besides,
    }
    table.keep(cell, found)
    numbers = ", ".join(f"{COLUMNS[column]} {found[column]:.3f}" for column in COLUMNS)
    print(f"{cell.key}: {numbers}, {found['tokens']} tokens ({found['seconds']:.0f} s)", flush=True)
    return found


def commit() -> str:
    """The code that a cell was made by."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return asked.stdout.strip() or "unknown"


# -- what it says --------------------------------------------------------------------------------------------------------


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of Student's t over seeds; no interval of one seed."""
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return values.mean(), values.mean() - half, values.mean() + half


def shown(values: np.ndarray) -> str:
    mean, low, high = interval(values)
    if np.isnan(mean):
        return ""
    return f"{mean:.3f}" if np.isnan(low) else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def markdown(table: Table) -> str:
    """The table of each budget, and the ranking's differences."""
    plan = table.plan
    lines = [f"# {plan['title']}", ""]
    lines += [
        "Means over the seeds (last column) with 95 % intervals of Student's t. Made by `scripts/reproduce.py`.",
        "",
    ]
    for budget in plan["budgets"]:
        lines += [
            f"## Equal {budget}",
            "",
            f"| method | {' | '.join(COLUMNS.values())} | updates | 1000 tokens | seeds |",
        ]
        lines += ["|---" * (len(COLUMNS) + 4) + "|"]
        for method, spec in plan["methods"].items():
            cells = [shown(table.values(method, budget, column)) for column in COLUMNS]
            updates, tokens = (table.values(method, budget, column) for column in ("updates", "tokens"))
            if (there := ~np.isnan(updates)).any():
                older = table.older(method, budget)
                seeds = f"{there.sum()}{f', {older} of an earlier revision' if older else ''}"
                counts = f"{updates[there].mean():.0f} | {tokens[there].mean() / 1000:.0f} | {seeds}"
                lines.append(f"| {spec['name']} | {' | '.join(cells)} | {counts} |")
        lines += ["", *ranked(table, budget)]
    return "\n".join(lines)


def verdict(low: float, high: float) -> str:
    """What an interval of the better less the worse says."""
    if np.isnan(low):
        return "(one seed: says nothing)"
    return "undecided" if low <= 0 <= high else "holds" if low > 0 else "reversed"


def ranked(table: Table, budget: str) -> list[str]:
    """Whether each neighbour of the published ranking is above the next here, and the first of each pair above the second."""
    published = list(itertools.pairwise(table.plan.get("ranking", [])))
    head = f"The published ranking, neighbour by neighbour (differences paired by seed, equal {budget}):"
    asked = "Is one above the other? (Differences paired by seed.)"
    return [*compared(table, budget, head, published), *compared(table, budget, asked, table.plan.get("pairs", []))]


def compared(table: Table, budget: str, head: str, pairs: Sequence[Sequence[str]]) -> list[str]:
    """A line for each pair (the better, the worse) under `head`."""
    names, lines = table.plan["methods"], []
    for better, worse in pairs:
        words = []
        for column in ("learning_accuracy", "average_accuracy"):
            values = table.values(better, budget, column) - table.values(worse, budget, column)
            mean, low, high = interval(values)
            said = verdict(low, high)
            if not np.isnan(mean):
                words.append(f"{COLUMNS[column]} {shown(values)} {said}")
        if words:
            lines.append(f"- {names[better]['name']} above {names[worse]['name']}: {'; '.join(words)}")
    return [head, "", *lines, ""] if lines else []


if __name__ == "__main__":
    main()
