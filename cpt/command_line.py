"""argparse whose complaints are one line: what is wrong, the nearest name, and the command that tells more."""

import argparse
import os
import re
from collections.abc import Sequence

from cpt.errors import nearest, nearest_or_all


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` without the usage before its complaints. Under a launcher rank 0 alone complains. Exits with 2."""

    def error(self, message: str):
        said = f"{self.prog}: {message}; `{self.prog} --help` tells more\n"
        self.exit(2, said if os.environ.get("RANK", "0") == "0" else None)

    def unknown(self, words: Sequence[str]):
        """Complain of words that no argument takes."""
        options = re.findall(r"--[a-z][a-z-]*", self.format_usage())
        near = "".join(nearest(word.partition("=")[0], options) for word in words[:1])
        self.error(f"unrecognized arguments: {' '.join(words)}{near}")


def one_of(names: Sequence[str]):
    """A `type` for arguments that are one of `names`."""

    def name(word: str) -> str:
        if word not in names:
            raise argparse.ArgumentTypeError(f"no {word}{nearest_or_all(word, names)}")
        return word

    return name
