"""JSON lines: one object a line, empty lines between them."""

from collections.abc import Iterator
from pathlib import Path

from cpt.data.readers.json_values import MISTAKES, broken, decoded
from cpt.data.readers.opened import lines
from cpt.data.readers.record import Broken, Record


def records(file: Path, options) -> Iterator[tuple[int, Record]]:
    """(line number, record)."""
    for number, line in lines(file):
        if line.isspace():
            continue
        try:
            value = decoded(line.decode("utf-8"))
        except MISTAKES as error:
            yield number, broken(error, line)
            continue
        yield number, value if isinstance(value, dict) else no_object(line)


def no_object(line: bytes) -> Broken:
    shown = line.decode().strip()[:60]
    hint = ": is the file a JSON array? Then set `source: file` and `format: json`" if shown.startswith("[") else ""
    return Broken("each line must be a JSON object", f", not {shown!r}{hint}")
