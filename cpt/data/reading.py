"""From records to rows: every record of a table is mapped and looked at, and all that is wrong is reported at once."""

from collections.abc import Iterable
from typing import Any

from cpt.data.loaded import Rows
from cpt.data.mapping import Mapping
from cpt.data.problems import RowProblem, RowProblems
from cpt.data.readers import Broken, Record
from cpt.errors import Problem, RecipeErrors, listed

Part = tuple[
    str, Iterable[tuple[int, Record]]
]  # what stands before a number in a place, and records with their numbers


def rows_of(parts: Iterable[Part], source: Any, where: str) -> Rows:
    """The rows of all parts, one after the other; `where` is what messages about all of them name.

    Raises:
        RecipeErrors: what is wrong with any row, or with the columns of all; keys `columns.FIELD`, else "".
    """
    mapping, rows = Mapping(source), Rows()
    broken, wrong = RowProblems(), RowProblems()
    columns: dict[str, None] = {}
    number = -1
    for before, records in parts:
        rows.begin(before)
        for line, record in records:
            number += 1
            if isinstance(record, Broken):
                place = f"{before}{line}"
                broken.add(record.kind, place, f"{place}: {record}")
                continue
            if record.keys() - columns.keys():
                columns |= dict.fromkeys(record)
            try:
                row = mapping.row(record)
                if row is not None:
                    rows.add(row, number, line)
            except RowProblem as error:
                place = f"{before}{line}"
                wrong.add(error.kind, place, f"{place}: {error}")
    missing = mapping.missing(columns) if columns else []
    problems = [Problem(None, None, "", text) for text in broken.lines()]
    problems += [
        Problem(None, None, f"columns.{field}" if field else "", f"{where}: {text}") for field, text in missing
    ]
    problems += [Problem(None, None, "", text) for text in ([] if missing else wrong.lines())]
    total = number + 1
    if not problems and not len(rows):
        dropped = f"`where` drops all of its {total} rows" if total else "holds no rows"
        problems.append(Problem(None, None, "", f"{where}: {dropped}"))
    if problems:
        raise RecipeErrors(problems)
    rows.notes = notes(mapping, where, list(columns), len(rows), total)
    return rows.finished()


def notes(mapping: Mapping, where: str, columns: list[str], kept: int, total: int) -> list[str]:
    """What `where` leaves, and the columns that nothing is made of."""
    lines = []
    if mapping.where is not None:
        lines.append(f"{where}: `where` keeps {kept if kept < total else 'all'} of {total} rows")
    if unknown := mapping.unknown(columns):
        lines.append(f"{where}: columns that templates use and no row has: {listed(unknown)}")
    if unused := mapping.unused(columns):
        lines.append(f"{where}: columns that are not used: {listed(unused)}")
    return lines
