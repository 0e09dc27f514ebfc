"""Files of rows, read one record after the other, each value as it is written.

A record is a dict of its columns, or `Broken`. Paths are taken literally; nothing is cached.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cpt.data.readers import delimited, json_document, json_lines, parquet
from cpt.data.readers.record import Broken, Record
from cpt.errors import UserError

READERS = {
    "jsonl": json_lines.records,
    "json": json_document.records,
    "csv": delimited.records,
    "tsv": delimited.records,
    "parquet": parquet.records,
}
ENDINGS = {f".{name}": name for name in READERS} | {".ndjson": "jsonl", ".pq": "parquet"}
COMPRESSED = (".gz", ".bz2", ".xz")
FOREIGN = {
    **dict.fromkeys((".zip", ".zst", ".lz4", ".7z", ".tar", ".tgz"), "unpack it first (gzip, bzip2 and xz are read)"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "spreadsheets are not read: save it as CSV"),
    **dict.fromkeys((".arrow", ".feather", ".pkl", ".pickle", ".db", ".sqlite"), "is not read: write it as Parquet"),
}
IN_ROWS = ("parquet",)  # formats without lines


class Options(NamedTuple):
    """How files are read: `format` (None: by the file's ending), the key of a JSON document, the delimiter of a CSV."""

    format: str | None = None
    field: str | None = None
    delimiter: str | None = None


def records(file: Path, options: Options) -> Iterator[tuple[int, Record]]:
    """(line or row, record) of all records of one file. Raises UserError for a file that cannot be read."""
    kind = format_of(file, options)
    try:
        yield from READERS[kind](file, options._replace(format=kind))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error


def before_number(file: Path, options: Options) -> str:
    """What stands before a line or row of the file in messages: `rows.jsonl:`, `rows.parquet: row `."""
    return f"{file}: row " if format_of(file, options) in IN_ROWS else f"{file}:"


def format_of(file: Path, options: Options) -> str:
    """Raises UserError where the name says nothing and the recipe neither."""
    kind = options.format or ending_format(file)
    if kind is None:
        for ending, remedy in FOREIGN.items():
            if ending == file.suffix.lower():
                raise UserError(f"{file}: {remedy}")
        raise UserError(f"{file}: its ending does not tell the format: set `format` ({', '.join(READERS)})")
    return kind


def ending_format(file: Path) -> str | None:
    """The format by the file's ending, a compression's ending left out."""
    endings = [ending.lower() for ending in file.suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    return ENDINGS.get(endings[-1]) if endings else None


__all__ = [
    "ENDINGS",
    "READERS",
    "Broken",
    "Options",
    "Record",
    "before_number",
    "ending_format",
    "format_of",
    "records",
]
