"""`cpt compare`: its arguments, and what they are to `cpt.api.comparison`."""

import argparse
import json
from pathlib import Path

DESCRIPTION = """\
Compare runs on the questions that all of them were asked. Runs whose recipes are equal but for the seed are one group; each
group is compared with the baseline's: paired differences with 95 % intervals, exact McNemar and permutation tests with
Holm's correction, the questions that flipped, and one verdict: better, worse, or cannot tell.

  cpt compare runs/quickstart-s0 runs/quickstart-merge-s0
  cpt compare runs/* --baseline runs/quickstart-s0 --out comparison     also compare.html, .md, .json, .csv, flips.csv
  cpt compare logs/base logs/tuned                       folders of lm-eval, written with --log_samples

Runs that were asked other questions, or answered with another precision or decoding, are refused. What the intervals
cover: docs/compare.md
"""


def add_arguments(commands) -> None:
    """The subcommand's parser."""
    compare = commands.add_parser(
        "compare",
        help="compare runs: paired differences, tests, flips, one verdict a pair",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directories, or folders with lm-eval's samples_*.jsonl"
    )
    compare.add_argument(
        "--baseline", type=Path, metavar="RUN", help="what the others are compared with (default: the first)"
    )
    compare.add_argument("--out", type=Path, metavar="FOLDER", help="write the report and the numbers to this folder")
    compare.add_argument("--json", action="store_true", help="print the content of compare.json instead of the table")


def run(asked: argparse.Namespace) -> int:
    """Compare as asked. Raises UserError."""
    from cpt.api.comparison import compare
    from cpt.comparison.writing import record

    comparison = compare(asked.runs, baseline=asked.baseline, out=asked.out)
    if asked.json:
        print(json.dumps(record(comparison), indent=1))
        return 0
    print(comparison)
    if asked.out is not None:
        print(f"report: {asked.out / 'compare.html'}")
    return 0
