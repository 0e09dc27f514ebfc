"""argparse whose complaints are one line: what is wrong, the nearest name, and the command that tells more."""

import argparse
import os
import re
from collections.abc import Sequence

from cpt.errors import cut, did_you_mean, nearest, nearest_or_all

OVERRIDES = "dotted overrides, e.g. seed=3 stream.reverse.stages.0.args.max_steps=10 (values are YAML)"


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` without the usage before its complaints. Under a launcher rank 0 alone complains. Exits with 2."""

    def error(self, message: str):
        complaint = f"{self.prog}: {message}; `{self.prog} --help` tells more\n"
        self.exit(2, complaint if os.environ.get("RANK", "0") == "0" else None)

    def unknown(self, arguments: Sequence[str], takes_recipe: bool = False):
        """Complain of words that no argument takes; `takes_recipe`: the keys of a recipe are meant, perhaps."""
        options = re.findall(r"--[a-z][a-z-]*", self.format_usage())
        near = flag_hint(arguments, options) if takes_recipe else ""
        near = near or nearest(arguments[0].partition("=")[0], options)
        self.error(f"unrecognized arguments: {cut(' '.join(arguments), 200)}{near}")


FLAGS = {  # what others call it: ours, or what to do
    **dict.fromkeys(("output_dir", "output", "out_dir", "run_dir", "save_dir", "o"), "--out"),
    **dict.fromkeys(("silent", "q"), "--quiet"),
    **dict.fromkeys(("debug", "v"), "--verbose"),
    **dict.fromkeys(("dry_run", "validate", "plan"), "write `cpt check` instead of `cpt run`"),
    **dict.fromkeys(
        ("resume", "continue", "resume_from_checkpoint", "restart"),
        "the same command resumes by itself: leave it out",
    ),
    **dict.fromkeys(("overwrite", "force", "f", "overwrite_output_dir"), "nothing is overwritten: give another --out"),
    **dict.fromkeys(("config", "recipe", "c", "yaml", "file"), "give the recipe without a flag: cpt run my.yaml"),
    **dict.fromkeys(("set", "override", "overrides", "opt", "param"), "write KEY=VALUE without a flag: seed=3"),
    **dict.fromkeys(
        ("gpus", "num_gpus", "num_processes", "nproc_per_node", "n_gpus", "devices", "deepspeed", "fsdp"),
        "start it with `accelerate launch --config_file FILE -m cpt run ...` (docs/recipe.md)",
    ),
    "model": "write model.path=...",
    "data": "rows are named in the recipe's tasks: stream.TASK.data.train=FILE",
}


def flag_hint(arguments: Sequence[str], options: Sequence[str]) -> str:
    """What to write instead of a flag that somebody expected: `--seed 3` is `seed=3` here."""
    from cpt.recipe.hints import RECIPE, argument

    flag, _, value = arguments[0].partition("=")
    name = flag.lstrip("-").replace("-", "_").lower()
    value = value or next((word for word in arguments[1:2] if not word.startswith("-")), "...")
    if not flag.startswith("-") or flag in options:
        return ""
    if (hint := FLAGS.get(name)) is not None:
        return did_you_mean(hint) if hint.startswith("--") else f"; {hint}"
    if name in ("seed", "name", "description"):
        return f"; write {name}={value}"
    if (key := argument(name)) is not None:
        return f"; write stream.0.stages.0.args.{key}={value}"
    if (hint := RECIPE.get(name)) is not None:
        return f"; write {hint}={value}" if " " not in hint else f"; {hint}"
    return ""


def one_of(names: Sequence[str]):
    """A `type` for arguments that are one of `names`."""

    def name(word: str) -> str:
        if word not in names:
            raise argparse.ArgumentTypeError(f"no {word}{nearest_or_all(word, names)}")
        return word

    return name
