"""CSV and TSV, with a line of column names. Every cell is text, as it is written; an empty cell is no value."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from cpt.data.readers.opened import lines
from cpt.data.readers.record import Broken, Record
from cpt.errors import UserError

DELIMITERS = {"csv": ",", "tsv": "\t"}
OTHERS = ";\t|"  # that a header of one column may really be separated by


class NotUtf8(Exception):
    pass


def records(file: Path, options) -> Iterator[tuple[int, Record]]:
    """(line on which the row begins, record). After quotes that do not close, or bytes that are no UTF-8, it ends.

    Raises:
        UserError: the first line is no list of column names.
    """
    csv.field_size_limit(sys.maxsize)
    delimiter = options.delimiter or DELIMITERS[options.format]
    reader = csv.reader(texts(file), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            begin, line = line, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = checked_header(file, cells, delimiter)
                named = [(place, name) for place, name in enumerate(header) if name]
            elif len(cells) != len(header):
                yield begin, Broken("has a different number of cells than the header", cells_text(cells, header))
            else:
                yield begin, {name: cells[place] or None for place, name in named}
    except csv.Error as error:
        yield line, Broken(f"not valid {options.format.upper()}", f" ({error}): {cause(error)}")
    except NotUtf8 as error:
        yield reader.line_num + 1, Broken("not UTF-8", f" ({error}): save the file as UTF-8 text")


def cause(error: csv.Error) -> str:
    if "new-line character" in str(error):
        return "its lines end with a carriage return alone: save it with \\n after each line"
    return "a quote that does not close, or a stray one?"


def texts(file: Path) -> Iterator[str]:
    for _, line in lines(file):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NotUtf8(error.reason) from error


def checked_header(file: Path, cells: list[str], delimiter: str) -> list[str]:
    """The column names; unnamed columns (such as the index that pandas writes) are empty strings, and are not read."""
    twice = next((name for place, name in enumerate(cells) if name and name in cells[:place]), None)
    if twice is not None:
        raise UserError(f"{file}: two columns are called {twice!r}: rename one")
    other = next((each for each in OTHERS if len(cells) == 1 and each in cells[0] and each != delimiter), None)
    if other is not None:
        raise UserError(
            f"{file}: has one column, {cells[0][:60]!r}: is it separated by {other!r}? Then set `delimiter: {other!r}`"
        )
    return cells


def cells_text(cells: list[str], header: list[str]) -> str:
    """`: 3, not 2`, and what to do."""
    more = "put cells that hold the delimiter in quotes" if len(cells) > len(header) else "a cell is missing"
    return f": {len(cells)}, not {len(header)}: {more}"
