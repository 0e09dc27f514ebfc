"""`cpt merge`: models, run folders or points of them, merged into a new folder. The merging itself is cpt/merging."""

import argparse
import gc
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from cpt.adapters import CONFIG, base_in_run, named_base
from cpt.cli.parser import one_of
from cpt.errors import UserError
from cpt.layout import check_sealed, check_strangers
from cpt.merge_methods import METHODS, OPTIONS, about
from cpt.stop import PROMPT, listening

DESCRIPTION = """\
Merge models that came from one base into a new model folder, tensor by tensor: memory stays small whatever their size.

  cpt merge OLD NEW --method wise --weight 0.3 --out DIR        0.3 of the old model, 0.7 of the new one
  cpt merge A B C --method linear --weight 2 1 1 --out DIR      a weighted mean
  cpt merge A B --method ties --base BASE --out DIR             what both changed of the base, without their conflicts
  cpt merge A B --method ties --base BASE --out DIR --dry-run   what would be read and written, without doing it
  cpt merge A B --method ties --into BASE --out DIR             LoRA adapters as the models that they make of BASE
  cpt merge runs/NAME/final --out DIR                           one adapter and its base as one full model

A MODEL is a folder with config.json and *.safetensors, a run folder (its last point), or a point of one
(runs/NAME/points/01-reverse). The config, tokenizer and chat template are those of the first. All models must have the same
tensors. Adapters (PEFT) of one config are merged as adapters, factor by factor; with --into as full models.

averages:
{averages}
of the models' changes of a --base:
{changes}
Formulas, papers, defaults and rules: docs/merging.md
"""
AHEAD = 8 << 20  # bytes that the disk is asked for at a time


def add_arguments(commands) -> None:
    """The subcommand's parser."""
    merge = commands.add_parser(
        "merge",
        help="merge models into a new one: linear, TIES, DARE, SLERP, ...",
        description=description(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    merge.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="model folders, runs, or points of runs")
    merge.add_argument(
        "--method",
        type=one_of(METHODS),
        metavar="METHOD",
        help="one of those above; none for one adapter by itself",
    )
    merge.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="a new folder; it appears whole or not at all"
    )
    merge.add_argument(
        "--base", type=Path, metavar="MODEL", help="what the models were trained from (methods from a base)"
    )
    merge.add_argument(
        "--into",
        type=Path,
        metavar="MODEL",
        help="read LoRA adapters as the full weights that they make of this model (and --base is it, where a method has one)",
    )
    merge.add_argument(
        "--weight",
        type=float,
        nargs="+",
        default=[],
        metavar="W",
        help="one for each model, or one for all; alone in an average of two models: the first one's share",
    )
    for name, option in OPTIONS.items():
        metavar = "|".join(option.choices) or name.upper()
        flags = (f"--{name}", *option.aliases)
        merge.add_argument(*flags, type=option.kind, dest=name, metavar=metavar, help=about(name))
    merge.add_argument(
        "--fisher", type=Path, nargs="+", default=[], metavar="FILE", help="diagonal Fisher of each model, safetensors"
    )
    merge.add_argument(
        "--dtype", metavar="DTYPE", help="of the result: float32, bfloat16, float16, float64 (the first model's)"
    )
    merge.add_argument("--shard-size", default="5GB", metavar="SIZE", help="largest file, e.g. 500MB (5GB)")
    merge.add_argument("--threads", type=int, help="how many work at once (one for each core)")
    merge.add_argument("--dry-run", action="store_true", help="check all and print the plan; write nothing")
    merge.add_argument("--quiet", action="store_true", help="only warnings and errors")


def description() -> str:
    """DESCRIPTION with the catalogue's methods, a line each."""
    width = max(map(len, METHODS))
    lines: dict[bool, list[str]] = {False: [], True: []}
    for name, method in METHODS.items():
        lines[method.needs_base].append(f"  {name:{width}}  {method.summary}")
    return DESCRIPTION.format(averages="\n".join(lines[False]), changes="\n".join(lines[True]))


def run(asked: argparse.Namespace) -> int:
    """Merge as asked, or print the plan. Raises UserError."""
    shard_bytes = bytes_of(asked.shard_size)
    from cpt.screen import Screen

    screen = Screen(0 if asked.quiet else 1)
    warnings: list[str] = []
    with screen.progress("looking at the models"):  # the files of a run are compared with their hashes
        models = [folder_of(place, warnings.append) for place in asked.models]
        base, into = (
            None if place is None else folder_of(place, warnings.append) for place in (asked.base, asked.into)
        )
        method = asked.method
        if method is None:
            method, into = "linear", into or base_of_one(models)
    if not asked.dry_run:
        read_ahead([folder for folder in (*models, base, into) if folder is not None])
    gc.disable()  # a million objects come with torch and stay: to look through them costs .2 s now, and .3 s at the end
    from cpt.merging.merge import carry_out
    from cpt.merging.plan import describe, make_plan
    from cpt.sizes import size

    gc.freeze()
    gc.enable()
    options = {key: getattr(asked, key) for key in (*OPTIONS, "dtype", "threads")}
    plan = make_plan(
        method,
        models,
        base,
        asked.weight,
        asked.out,
        fishers=asked.fisher,
        into=into,
        shard_bytes=shard_bytes,
        **options,
    )
    for warning in (*warnings, *plan.warnings):
        screen.warn(warning)
    if asked.dry_run:
        screen.result(describe(plan))
        return 0
    screen.line(describe(plan))
    bar_of = screen.progress("merging", plan.read // 1_000_000, "MB")
    with listening() as stop, stop.within(PROMPT), bar_of as bar:
        carry_out(plan, lambda done: bar.update(done // 1_000_000), stop)
    screen.line(
        f"{asked.out}: {size(plan.written)} in {len(list(asked.out.glob('*.safetensors')))} file(s)", style="bold"
    )
    return 0


def base_of_one(models: Sequence[Path]) -> Path:
    """The base that one adapter by itself is folded into. Raises UserError where there is more or less to merge."""
    if len(models) != 1 or not (models[0] / CONFIG).is_file():
        raise UserError("--method: say how the models are merged (linear, ties, ...): one adapter by itself needs none")
    base = base_in_run(models[0])
    if base is not None:
        return base
    from cpt.models import find
    from cpt.recipe import Model

    return find(Model(path=named_base(models[0])))


def read_ahead(folders: Sequence[Path]) -> None:
    """Let the disk begin on all files at once while torch is imported, as far as a quarter of free memory goes."""
    files = [file for folder in folders for file in folder.glob("*.safetensors")]
    each = psutil.virtual_memory().available // 4 // max(1, len(files))

    def ask(file: Path) -> None:
        with suppress(OSError), file.open("rb") as stream:  # who reads it will say so
            for start in range(0, min(each, file.stat().st_size), AHEAD):
                os.posix_fadvise(stream.fileno(), start, AHEAD, os.POSIX_FADV_WILLNEED)

    for file in files:
        threading.Thread(target=ask, args=(file,), daemon=True).start()


def bytes_of(text: str) -> int:
    """`500MB` -> 500,000,000. Raises UserError."""
    units = {"GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}
    unit = next((unit for unit in units if text.upper().endswith(unit)), "")
    try:
        count = int(float(text[: len(text) - len(unit)]) * units[unit]) if unit else 0
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise UserError(f"--shard-size: {text}: give a size above 0 with its unit, e.g. 5GB or 500MB")
    return count


def folder_of(place: Path, warn: Callable[[str], None]) -> Path:
    """The folder with the weights: of a run (its last whole point), of a point (served, else model), or the place itself."""
    from cpt.places import is_run, weights_in, whole_point
    from cpt.recipe import load
    from cpt.rundir import RunDir, points_of

    if is_run(place):
        rundir = RunDir(place)
        point = whole_point(rundir, points_of(load(str(place / "recipe.yaml"))), None, warn)
        warnings, folder = check_strangers([rundir.point(point)]), rundir.served(point)
    else:
        folder = weights_in(place)
        if not folder.is_dir():
            raise UserError(
                f"{place}: no such folder; give a model folder, a run folder or a point of one (runs/NAME/points/01-TASK)"
            )
        warnings = check_sealed(place)
    for line in warnings:
        warn(line)
    return folder
