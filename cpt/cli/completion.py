"""What the shell completes (argcomplete): names of recipes, suites and verifiers, run folders, points.

`eval "$(register-python-argcomplete cpt)"` turns it on.
"""

import argparse
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from cpt.cli.listing import KINDS
from cpt.shipped import shipped

FEW = 200  # entries of a folder that are looked into for run folders


def files_and(names: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """A completer: names, and YAML files and folders."""

    def complete(prefix: str, **_) -> list[str]:
        return [*names(), *paths(prefix, lambda path: path.suffix in (".yaml", ".yml"))]

    return complete


def verifiers(prefix: str, **_) -> list[str]:
    """The kinds of verifiers after `...reward=` and `...metric=`."""
    key, equals, _ = prefix.partition("=")
    if not equals or key.split(".")[-1] not in ("reward", "metric"):
        return []
    from cpt.recipe.catalogue import catalogue

    return [f"{key}={name}" for name in catalogue("verifiers")]


def runs(prefix: str, **_) -> list[str]:
    """Run folders (of `runs` where nothing was typed), and the folders on the way to others."""
    return paths(prefix or f"runs{os.sep}", lambda path: False)


def points(prefix: str, parsed_args: argparse.Namespace, **_) -> list[str]:
    """The points of the run that stands on the line."""
    target = getattr(parsed_args, "target", None)
    return [] if target is None else sorted(each.name for each in Path(target, "points").glob("*"))


def paths(prefix: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Folders, of which run folders end without a slash, and files that are `wanted`, whose path begins with `prefix`."""
    head, tail = os.path.split(prefix)
    try:
        inside = sorted(Path(os.path.expanduser(head) or ".").iterdir())[:FEW]
    except OSError:
        return []
    found = [each for each in inside if each.name.startswith(tail) and (tail or not each.name.startswith("."))]
    names = []
    for each in found:
        if each.is_dir():
            names.append(os.path.join(head, each.name) + ("" if (each / "recipe.yaml").is_file() else os.sep))
        elif wanted(each):
            names.append(os.path.join(head, each.name))
    return names


COMPLETERS = {  # {argument: what completes it}, in all commands
    "recipe": files_and(partial(shipped, "recipes")),
    "overrides": verifiers,
    "suite": files_and(partial(shipped, "eval")),
    "target": runs,
    "run": runs,
    "runs": runs,
    "models": runs,
    "baseline": runs,
    "point": points,
    "what": lambda **_: KINDS,
}


def complete(parser: argparse.ArgumentParser, commands: dict[str, argparse.ArgumentParser]) -> None:
    """Answer the shell and end the process, where it is the shell that asks."""
    import argcomplete

    for command in commands.values():
        for action in command._actions:
            if action.dest in COMPLETERS:
                action.completer = COMPLETERS[action.dest]
    argcomplete.autocomplete(parser)
