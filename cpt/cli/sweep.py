"""`cpt sweep`: its arguments, and what they are to `cpt.sweeps`."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Run every recipe of a sweep's file with every order, value and seed, and compare them. A cell is a run directory: one that
is done is not run again, one that was interrupted is resumed, and one that fails stops no other.

  cpt sweep quickstart-seeds                   the shipped example: two recipes, three seeds
  cpt sweep my-sweep.yaml --dry-run            list the cells, with their states
  cpt sweep my-sweep.yaml --slurm              write a SLURM job array, one cell a task

Mistakes of any cell are reported before the first one runs. Exit codes: 0 all cells are done; 1 a cell failed; 2 bad input
or refused; 130, 143 interrupted and saved. What the file may say: docs/compare.md
"""


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def add_arguments(commands) -> None:
    """The subcommand's parser."""
    sweep = commands.add_parser(
        "sweep",
        help="run recipes x seeds x orders x values, resumable, and compare them",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sweep.add_argument("sweep", metavar="SWEEP", help="a shipped sweep's name, or a YAML file")
    sweep.add_argument("--out", type=Path, metavar="FOLDER", help="the sweep's folder (default: runs/sweeps/NAME)")
    sweep.add_argument("--jobs", type=at_least_one, default=1, help="cells at a time (default: %(default)s)")
    only = sweep.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="check everything and list the cells, without running one")
    only.add_argument("--cell", type=int, metavar="N", help="run this cell alone (its number as --dry-run lists it)")
    only.add_argument("--slurm", action="store_true", help="write a SLURM job array instead of running anything")
    loud = sweep.add_mutually_exclusive_group()
    loud.add_argument("--quiet", action="store_true", help="only results, warnings and errors")
    loud.add_argument(
        "--verbose", action="store_true", help="show what the runs print, instead of writing it to their logs"
    )


def run(asked: argparse.Namespace) -> int:
    """Sweep as asked. Raises UserError."""
    from cpt.screen import Screen
    from cpt.sweeps.plan import make_plan
    from cpt.sweeps.slurm import write_scripts
    from cpt.sweeps.sweep import listing, run_one, run_sweep

    screen = Screen(0 if asked.quiet else 2 if asked.verbose else 1)
    with screen.progress("checking all cells"):
        plan = make_plan(asked.sweep, asked.out)
    if asked.dry_run:
        screen.result(listing(plan))
        return 0
    if asked.slurm:
        path = Path(asked.sweep)
        for script, command in write_scripts(plan, str(path.resolve()) if path.is_file() else asked.sweep, Path.cwd()):
            screen.result(f"written: {script}; submit it with: {command}")
        return 0
    result = run_sweep(plan, screen, asked.jobs) if asked.cell is None else run_one(plan, asked.cell, screen)
    for name, why in result.failed.items():
        screen.warn(f"{name}: failed: {why}")
    return 1 if result.failed else 0
