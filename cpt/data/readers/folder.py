"""The files that a path of a recipe means: the file itself, or those in a folder, all of one format."""

import os
import re
import unicodedata
from pathlib import Path

from cpt.data.readers import Options, ending_format
from cpt.errors import UserError, nearest

SPLIT = re.compile(r"(train|test|valid|validation|dev|eval)(?![a-z])", re.IGNORECASE)


def files(path: Path, options: Options) -> list[Path]:
    """In the order of their names. Hidden files are left out; so are others than rows (a README, say).

    Raises:
        UserError: nothing is there, or it is not clear which files are meant.
    """
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise UserError(f"{path}: {why_no_file(path)}")
    files = [Path(folder, name) for folder, name in walk(path)]
    if any(file.suffix == ".arrow" for file in files):
        raise UserError(
            f"{path}: the folder is a data set that `save_to_disk` wrote: write it as Parquet "
            '(`load_from_disk(...).to_parquet("rows.parquet")`), and name that file'
        )
    formats: dict[str, list[Path]] = {}
    for file in files:
        if kind := ending_format(file):
            formats.setdefault(kind, []).append(file)
    if options.format is not None:
        formats = {kind: paths for kind, paths in formats.items() if kind == options.format}
    if not formats:
        wanted = options.format or "jsonl, json, csv, tsv or parquet"
        shown = ", ".join(file.name for file in files[:5]) or "nothing"
        raise UserError(f"{path}: the folder holds no {wanted} files; it holds: {shown}")
    if len(formats) > 1:
        counts = ", ".join(f"{kind} ({len(paths)})" for kind, paths in sorted(formats.items()))
        raise UserError(f"{path}: the folder holds files of several formats, {counts}: say which with `format`")
    (chosen,) = formats.values()
    refuse_splits(path, chosen)
    return sorted(chosen)


def walk(path: Path) -> list[tuple[str, str]]:
    """(folder, name) of every file below, in order."""
    files = []
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not hidden(name))
        files += [(folder, name) for name in sorted(names) if not hidden(name)]
    return files


def hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def refuse_splits(path: Path, files: list[Path]) -> None:
    """A folder with `train-0.parquet` and `test-0.parquet` is two sets of rows, of which one is not to be trained on."""
    named = {match[1].lower(): file for file in files if (match := SPLIT.match(file.name))}
    if len(named) > 1:
        shown = ", ".join(file.name for file in named.values())
        raise UserError(f"{path}: the folder holds several splits ({shown}): name the file, or a folder of one split")


def why_no_file(path: Path) -> str:
    """What to say of a path where no file is: what is there, or the file beside it that is meant, if one is like it."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"is a link to a file that is not there ({os.readlink(path)})"
    if re.match(r"/?([a-z0-9]+:/|.*/(https?|s3|gs|hf):/)", str(path)):
        return "files are read from this machine: download it first (a data set of the hub is `source: hub`)"
    if os.path.lexists(path):
        return "is not a regular file (a pipe, a socket or a device): name a file that can be read more than once"
    try:
        names = os.listdir(path.parent)
    except OSError:
        return f"no such file; there is no folder {path.parent} either"
    alike = [name for name in names if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", path.name)]
    if alike:
        return (
            f"no such file; there is {alike[0]}, whose accents are other Unicode characters: copy its name from there"
        )
    literally = "; a path is taken literally: for several files name their folder" * any(c in path.name for c in "*?[")
    return f"no such file{nearest(path.name, names)}{literally}"
