"""`cpt list`: the names that a recipe may use, and a line on each."""

import argparse
import json

from cpt.cli.parser import one_of

KINDS = (
    "recipes",
    "suites",
    "verifiers",
    "strategies",
    "stages",
)  # of cpt.recipe.catalogue, which costs .3 s to import
DESCRIPTION = """\
List what can be named, a line each.

  cpt list recipes          for `cpt run NAME` and `cpt check NAME`
  cpt list suites           for `cpt eval RUN --suite NAME`, and `evaluation.suites` of a recipe
  cpt list verifiers        for `reward` and `metric` of a task
  cpt list strategies       for `kind` under `strategies`
  cpt list stages           for `kind` under a task's `stages`
"""


def add_arguments(commands) -> None:
    """The subcommand's parser."""
    command = commands.add_parser(
        "list",
        help="list recipes, suites, verifiers, strategies or stages, a line each",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("what", type=one_of(KINDS), metavar="WHAT", help=f"one of: {', '.join(KINDS)}")
    command.add_argument("--json", action="store_true", help="print [{name, description}, ...] instead of the table")


def run(asked: argparse.Namespace) -> int:
    """Print the list."""
    from cpt.recipe.catalogue import ALSO, catalogue

    found = catalogue(asked.what)
    if asked.json:
        print(json.dumps([{"name": name, "description": line} for name, line in found.items()], indent=1))
        return 0
    width = max(map(len, found))
    print("\n".join([*(f"{name:{width}}  {line}".rstrip() for name, line in found.items()), "", ALSO[asked.what]]))
    return 0
