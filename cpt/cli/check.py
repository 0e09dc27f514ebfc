"""`cpt check`: its arguments, and what it prints."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from cpt.cli.parser import OVERRIDES
from cpt.errors import Problem, UserError

DESCRIPTION = """\
Find every mistake of a recipe, each with file, line, key and the nearest valid name, and print the plan: tasks, stages,
rows, steps, what will be evaluated, disk. Nothing is trained or written.

  cpt check quickstart                      what would `cpt run quickstart` do?
  cpt check my.yaml seed=3                  with other values
  cpt check my.yaml --full                  also what must be downloaded first, and all that the libraries refuse
  cpt check my.yaml --json                  for programs; the exit code is 2 where there are mistakes
"""


def add_arguments(commands) -> None:
    """The subcommand's parser."""
    check = commands.add_parser(
        "check",
        help="find every mistake of a recipe and print its plan, without training",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("recipe", help="a shipped recipe's name (`cpt list recipes`) or a YAML file")
    check.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=OVERRIDES)
    check.add_argument("--out", type=Path, help="the run directory that would be used")
    check.add_argument(
        "--full",
        action="store_true",
        help=(
            "also download what is missing on this machine, and check everything with the training libraries (about "
            "10 s)"
        ),
    )
    check.add_argument(
        "--json", action="store_true", help="print {name, out, problems, warnings, unseen, plan} instead of the plan"
    )


def run(asked: argparse.Namespace) -> int:
    """Check as asked. Raises UserError with all mistakes, which `--json` prints too."""
    from cpt.api.training import check

    try:
        found = check(asked.recipe, asked.overrides, out=asked.out, full=asked.full)
    except UserError as error:
        if asked.json:
            print(json.dumps({"problems": problems_of(error)}, indent=1))
        raise
    if asked.json:
        known = {"name": found.recipe.name, "out": str(found.out), "problems": [], "warnings": found.warnings}
        print(json.dumps(known | {"unseen": found.unseen, "plan": found.plan}, indent=1))
    else:
        print(found)
    return 0


def problems_of(error: UserError) -> list[dict]:
    """[{file, line, key, message}]; of a mistake that stands in no recipe the message alone."""
    problems = getattr(error, "problems", (Problem(None, None, "", str(error)),))
    return [asdict(each) | {"file": None if each.file is None else str(each.file)} for each in problems]
