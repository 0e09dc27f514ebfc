"""`cpt merge`: its arguments, and what they are to `cpt.api.merging`."""

import argparse
from pathlib import Path

from cpt.api.merging import bytes_of, merge_folders
from cpt.cli.parser import one_of
from cpt.merge_methods import METHODS, OPTIONS, about

DESCRIPTION = """\
Merge models of one base into a new model folder, tensor by tensor, with little memory whatever their size.

  cpt merge OLD NEW --method wise --weight 0.3 --out DIR        0.3 of the old model, 0.7 of the new one
  cpt merge A B C --method linear --weight 2 1 1 --out DIR      a weighted mean
  cpt merge A B --method ties --base BASE --out DIR             the changes that both made to the base, without conflicts
  cpt merge A B --method ties --base BASE --out DIR --dry-run   what would be read and written, without doing it
  cpt merge A B --method ties --into BASE --out DIR             LoRA adapters, read as full models of BASE
  cpt merge runs/NAME/final --out DIR                           one adapter and its base as one full model

A MODEL is a folder with config.json and *.safetensors, a run folder (its last point), or a point of one
(runs/NAME/points/01-reverse). The config, tokenizer and chat template come from the first model. All models must
have the same tensors. PEFT adapters with the same config are merged factor by factor, or with --into as full models.

averages:
{averages}
of the changes that the models made to a --base:
{changes}
Formulas, papers, defaults and rules: docs/merging.md
"""


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
        help="one of the methods above; leave it out for a single adapter",
    )
    merge.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="a new folder; it appears whole or not at all"
    )
    merge.add_argument(
        "--base",
        type=Path,
        metavar="MODEL",
        help="the model that the others were trained from (for methods that need a base)",
    )
    merge.add_argument(
        "--into",
        type=Path,
        metavar="MODEL",
        help=(
            "read LoRA adapters as the full weights that they make with this model, which is also the base of "
            "methods that need one"
        ),
    )
    merge.add_argument(
        "--weight",
        type=float,
        nargs="+",
        default=[],
        metavar="W",
        help="one for each model, or one for all; a single one in an average of two models is the first one's share",
    )
    for name, option in OPTIONS.items():
        metavar = "|".join(option.choices) or name.upper()
        flags = (f"--{name}", *option.aliases)
        merge.add_argument(*flags, type=option.kind, dest=name, metavar=metavar, help=about(name))
    merge.add_argument(
        "--fisher",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="the diagonal Fisher information of each model, as safetensors",
    )
    merge.add_argument(
        "--dtype",
        metavar="DTYPE",
        help="dtype of the result: float32, bfloat16, float16, float64 (default: the first model's)",
    )
    merge.add_argument(
        "--shard-size", default="5GB", metavar="SIZE", help="largest size of a file, e.g. 500MB (default: 5GB)"
    )
    merge.add_argument("--threads", type=int, help="number of threads (default: one for each core)")
    merge.add_argument("--dry-run", action="store_true", help="check everything and print the plan, without writing")
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
    from cpt.screen import Screen

    screen, shard_bytes = Screen(0 if asked.quiet else 1), bytes_of(asked.shard_size)
    names = ("method", "base", "into", "weight", "fisher", "dry_run")
    given = {name: getattr(asked, name) for name in names}
    options = {name: getattr(asked, name) for name in (*OPTIONS, "dtype", "threads")}
    text = merge_folders(asked.models, asked.out, screen, **given, shard_bytes=shard_bytes, options=options)
    if asked.dry_run:
        screen.result(text)
    return 0
