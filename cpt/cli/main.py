"""The command line. Nothing heavy is imported until a command needs it: `cpt --help` answers at once.

Exit codes: 0 done; 1 failed; 2 bad input or refused; 3 a critical gate failed, or the data cannot tell;
130 and 143 interrupted (Ctrl-C, SIGTERM) and saved.
"""

import argparse
import errno
import json
import os
import sys
import time
import traceback
from pathlib import Path

from cpt import __version__, ranks
from cpt.cli import check as check_command
from cpt.cli import compare as compare_command
from cpt.cli import listing
from cpt.cli import merge as merge_command
from cpt.cli import sweep as sweep_command
from cpt.cli.parser import OVERRIDES, Parser
from cpt.disk import no_room
from cpt.errors import LONGEST_KEY, CannotWrite, EngineFailed, Interrupted, UserError, cut, nearest, printable
from cpt.stop import Stop, listening

DESCRIPTION = """\
cpt takes a language model through a stream of tasks (SFT, preferences, reinforcement from verifiers) and shows, task by
task, what it learnt and what it forgot.

  cpt run quickstart                        train and evaluate the stream of recipes/quickstart.yaml
  cpt run quickstart seed=3 stream.0.stages.0.args.max_steps=10     with other values (dotted keys)
  cpt list recipes                          what can be run: shipped recipes (also: suites, verifiers, strategies, stages)
  cpt check my.yaml                         find every mistake of a recipe, and print the plan, without training
  cpt eval runs/quickstart-s0 --suite general       evaluate a run's model (or any model folder)
  cpt report runs/quickstart-s0             make the report again from the run's JSON files
  cpt merge OLD NEW --method wise --out DIR         merge models in weight space (linear, TIES, DARE, SLERP, ...)
  cpt compare runs/a runs/b                 is the second one better? paired intervals, tests, one verdict
  cpt sweep quickstart-seeds                recipes x seeds x orders x values, resumable, and their comparison
  cpt schema > cpt.schema.json              the JSON Schema of recipes, for editors

In the shell: eval "$(register-python-argcomplete cpt)" completes commands, recipes, suites, verifiers and run folders.
"""


def parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and that of each command."""
    top = Parser(prog="cpt", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"cpt {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="train and evaluate a recipe, or resume an interrupted run",
        description="Train and evaluate a recipe. On a directory that holds a part of the same run, go on with it. "
        "Exit codes: 0 done; 1 failed; 2 bad input or refused; 3 a critical gate failed, or the "
        "data cannot tell; 130, 143 interrupted and saved.",
    )
    run.add_argument("recipe", help="a shipped recipe's name (quickstart) or a YAML file")
    run.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=OVERRIDES)
    run.add_argument(
        "--out", type=Path, help="the run directory (default: runs/NAME-sSEED); an unfinished run there is resumed"
    )
    run.add_argument(
        "--no-cache",
        action="store_true",
        help="compute what the cache has too: answers of the untouched model, and baselines",
    )
    loudness(run)

    check_command.add_arguments(commands)

    evaluate = commands.add_parser(
        "eval",
        help="evaluate a run's point or a model folder on a suite",
        description="Evaluate a run's point, a model folder or an adapter folder on suites, greedily; print accuracy "
        "with 95 % intervals.",
    )
    evaluate.add_argument(
        "target",
        type=Path,
        metavar="RUN_OR_MODEL",
        help="a run directory, a point of one, a model folder, or a model's id on the hub (owner/name)",
    )
    evaluate.add_argument(
        "--suite", action="append", default=[], help="a suite's name (general) or YAML file; repeatable"
    )
    evaluate.add_argument("--tasks", action="store_true", help="the tasks of the run's own stream")
    evaluate.add_argument("--point", help="which point of a run (01-reverse); default: the last")
    evaluate.add_argument("--out", type=Path, help="write every evaluated answer to this file (JSON lines)")
    evaluate.add_argument(
        "--json",
        action="store_true",
        help="print {accuracy, intervals, questions, seconds, tokens} instead of the table; warnings go to stderr",
    )
    loudness(evaluate)

    report = commands.add_parser(
        "report",
        help="make report.html and report.md again from a run's JSON files",
        description="Make report.html and report.md again from the JSON files of a run directory; no weights, no "
        "network.",
    )
    report.add_argument("run", type=Path, help="a run directory")

    listing.add_arguments(commands)
    merge_command.add_arguments(commands)
    compare_command.add_arguments(commands)
    sweep_command.add_arguments(commands)

    commands.add_parser(
        "schema",
        help="print the JSON Schema of recipes, for editors",
        description="Print the JSON Schema of recipes. Editors with a YAML language server complete and check by it: "
        "`cpt schema > cpt.schema.json`, and at the top of a recipe `# yaml-language-server: $schema=cpt.schema.json`.",
    )
    return top, commands.choices


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments; overrides may stand before and after options (argparse alone takes only the first group)."""
    top, commands = parser()
    if "_ARGCOMPLETE" in os.environ:
        from cpt.cli.completion import complete

        complete(top, commands)
    given = sys.argv[1:] if arguments is None else arguments
    if given and not given[0].startswith("-") and given[0] not in commands:
        top.error(f"unknown command {given[0]!r}{nearest(given[0], commands)}")
    asked, rest = top.parse_known_args(given)
    late = [word for word in rest if "=" in word and not word.startswith("-")]
    if not hasattr(asked, "overrides"):
        late = []
    strange = [word for word in rest if word not in late]
    if strange:
        commands[asked.command].unknown(strange, takes_recipe=hasattr(asked, "overrides"))
    if late:
        asked.overrides = asked.overrides + late
    return asked


def loudness(command: argparse.ArgumentParser) -> None:
    group = command.add_mutually_exclusive_group()
    group.add_argument("--quiet", action="store_true", help="only results, warnings and errors")
    group.add_argument(
        "--verbose", action="store_true", help="also the libraries' warnings (which are always in the run's log)"
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its code."""
    with listening(keep=arguments is None) as stop:
        asked = parsed(arguments)
        stop.kept = KEPT[asked.command]
        try:
            code = COMMANDS[asked.command](asked)
            sys.stdout.flush()
            if stop.signal is not None:
                code = interrupted(stop, arguments, "stopped when everything was done; nothing is lost", stop.signal)
        except Interrupted as error:
            code = interrupted(stop, arguments, INTERRUPTED[asked.command], error.signal)
        except KeyboardInterrupt:  # a library's own
            code = interrupted(stop, arguments, f"stopped at once; {stop.kept}", 2)
        except Exception as error:
            if stop.signal is None or isinstance(error, UserError):
                code = complaint(asked, error, stop.kept)
            else:  # the signal reached others of our group too: a worker, a server, another rank
                noted(asked, error)
                code = interrupted(stop, arguments, f"ended; {stop.kept}", stop.signal)
    sys.exit(code)


def complaint(asked: argparse.Namespace, error: Exception, kept: str) -> int:
    """Say what went wrong; the exit code. `kept`: what is left for the user to continue with."""
    if isinstance(error, BrokenPipeError):
        return reader_left() if asked.command in PRINTS else failed(asked, error)
    if isinstance(error, UserError):
        return refused(asked, error)
    if isinstance(error, PermissionError) or getattr(error, "errno", None) in UNUSABLE:
        return unusable(asked, error)
    line = str(error) if isinstance(error, CannotWrite) else no_room(error)
    return failed(asked, error) if line is None else unwritten(asked, error, f"{line}; {kept}")


def unwritten(asked: argparse.Namespace, error: Exception, line: str) -> int:
    """A file could not be written: the rank on which it happened says so."""
    noted(asked, error)
    mine = int(os.environ.get("RANK", "0"))
    if ranks.number_of(error) == mine:
        print(f"cpt: {f'rank {mine}: ' if mine else ''}{line}", file=sys.stderr, flush=True)
    return 1


def interrupted(stop: Stop, arguments: list[str] | None, line: str, number: int) -> int:
    """Say it and end the process at once; called from Python (with `arguments`) return the exit code."""
    code, line = 128 + number, f"{line} (signal {number})"
    if arguments is None:
        stop.end(code, line)
    return complain(line, code)


INTERRUPTED = {
    "run": "interrupted and saved; the same command resumes from here",
    "eval": "interrupted; no answers are kept, the same command starts again",
    "merge": "interrupted; nothing is kept, the same command starts again",
    "sweep": "interrupted and saved; the same command goes on from here",
}
KEPT = dict.fromkeys(("check", "report", "list", "compare", "schema"), "nothing was written") | {
    "run": "what was committed is kept, the same command resumes from there",
    "eval": "no answers are kept, the same command starts again",
    "merge": "nothing is kept, the same command starts again",
    "sweep": "what was committed is kept, the same command goes on from there",
}
RANK_0_SPEAKS = 10.0  # seconds at most; the launcher ends the others when rank 0 has ended


def reader_left() -> int:
    """The reader of our output left (`cpt check ... | head`): what it wanted it has."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def complain(message: object, code: int) -> int:
    """Say it on stderr (rank 0 alone, under a launcher)."""
    if os.environ.get("RANK", "0") == "0":
        for line in str(message).splitlines():
            print(f"cpt: {line}", file=sys.stderr, flush=True)
    return code


def refused(asked: argparse.Namespace, error: UserError) -> int:
    """A mistake that all ranks see: rank 0 says it. What another rank saw is in the log, in case it alone did.

    The others wait a little before they end: a launcher ends all ranks with the first, and rank 0 may still have to speak.
    """
    log, mine = getattr(asked, "log", None), os.environ.get("RANK", "0")
    if mine != "0" and log is not None and log.parent.is_dir():
        with log.open("a", encoding="utf-8") as file:
            print(f"rank {mine}: refused: {error}", file=file)
    if mine != "0":
        time.sleep(RANK_0_SPEAKS)
    return complain(error, 2)


UNUSABLE = {errno.ENAMETOOLONG: "shorten it", errno.ELOOP: "its links go in a circle: name another"}


def unusable(asked: argparse.Namespace, error: OSError) -> int:
    """A file that the user named, or one of the run, cannot be touched. Under a launcher any rank may have met it."""
    if error.filename is None or under_launcher():
        return failed(asked, error)
    noted(asked, error)
    remedy = UNUSABLE.get(error.errno, "change its permissions, or name another")
    return complain(f"{shown_path(error.filename)}: {error.strerror}: {remedy}", 2)


def shown_path(name: str | bytes | os.PathLike) -> str:
    return cut(printable(os.fsdecode(name)), LONGEST_KEY)


def failed(asked: argparse.Namespace, error: Exception) -> int:
    """An error of ours or of a library: one line on the screen, the traceback in the run's log (or on the screen).

    Under a launcher the rank on which it arose says it, and says which it is; that it took the others down, rank 0 says.
    """
    log, mine = getattr(asked, "log", None), int(os.environ.get("RANK", "0"))
    recorded = noted(asked, error)
    if log is None or not (recorded or log.exists()):
        if isinstance(error, EngineFailed):
            return complain(error, 1)
        traceback.print_exception(error)
        return 1
    story = f"details: {log}" if recorded else f"{log} cannot be written"
    first, *more = (str(error).strip() or "no message").splitlines()
    if under_launcher() and ranks.is_lost_peer(error):
        return complain(f"failed: another process of this run ended; its own message is near this one, or in {log}", 1)
    if ranks.number_of(error) != mine:
        return 1
    where = f"rank {mine}: " if mine else ""
    print(f"cpt: {where}failed: {type(error).__name__}: {first} ({story})", file=sys.stderr, flush=True)
    for line in more if isinstance(error, EngineFailed) else ():
        print(f"     {line}", file=sys.stderr, flush=True)
    return 1


def noted(asked: argparse.Namespace, error: Exception) -> bool:
    """Whether the traceback could be written to the run's log."""
    log = getattr(asked, "log", None)
    if log is None or not log.parent.is_dir():
        return False
    try:
        with log.open("a", encoding="utf-8") as file:
            print(f"rank {os.environ.get('RANK', '0')}:", file=file)
            traceback.print_exception(error, file=file)
    except OSError:
        return False
    return True


def under_launcher() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


# -- commands ------------------------------------------------------------------------------------------------------------


def run(asked: argparse.Namespace) -> int:
    from cpt.api.training import prepare
    from cpt.cache import OFF
    from cpt.evaluation.verdict import certified
    from cpt.screen import Screen

    if asked.no_cache:
        os.environ[OFF] = "1"
    prepared = prepare(asked.recipe, asked.overrides, asked.out, Screen(level_of(asked)))
    asked.log = prepared.out / "run.log"
    results = prepared.run()
    return 0 if certified(results["verdict"]) else 3


def evaluate(asked: argparse.Namespace) -> int:
    from cpt.api.evaluation import evaluate_folder
    from cpt.screen import Screen

    screen = Screen(level_of(asked), sys.stderr if asked.json else None)
    if not asked.suite and not asked.tasks:
        raise UserError(
            "eval: nothing to evaluate: give --suite (general, or a YAML file), or --tasks for a run's own tasks"
        )
    result = evaluate_folder(asked.target, asked.suite, asked.point, asked.out, screen, asked.tasks)
    if asked.json and ranks.is_main():
        print(json.dumps(result.summary(), indent=1))
    return 0


def report(asked: argparse.Namespace) -> int:
    from cpt.report import build

    html, markdown = build(asked.run)
    print(f"{html}\n{markdown}")
    return 0


def schema(asked: argparse.Namespace) -> int:
    from cpt.recipe import json_schema

    print(json.dumps(json_schema.schema(), indent=2))
    return 0


COMMANDS = {
    "run": run,
    "check": check_command.run,
    "eval": evaluate,
    "report": report,
    "list": listing.run,
    "merge": merge_command.run,
    "compare": compare_command.run,
    "sweep": sweep_command.run,
    "schema": schema,
}
PRINTS = (
    "check",
    "report",
    "list",
    "compare",
    "schema",
)  # do no more than print: a broken pipe there is that of stdout


def level_of(asked: argparse.Namespace) -> int:
    return 0 if asked.quiet else 2 if asked.verbose else 1
