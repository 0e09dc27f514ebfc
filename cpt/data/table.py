"""The rows of a stage as a `datasets.Dataset`: columns of text alone, so that every row stays exactly as it was.

Arrow gives one type to a whole column: of nested values, such as the arguments of tool calls, each row would get the keys of
all others, with nulls. So rows are packed as JSON (`rows.packed`), and unpacked wherever one is looked at.
"""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

CHUNK = 1000  # rows that are taken at once: Arrow holds less than 2 GB of text in one piece


def table(rows: Iterable[dict[str, str]]) -> "Dataset":
    """A data set in memory. All rows have the same fields."""
    import pyarrow
    from datasets import Dataset

    rows, chunks = iter(rows), []
    while chunk := list(itertools.islice(rows, CHUNK)):
        chunks.append(pyarrow.table({name: pyarrow.array([row[name] for row in chunk]) for name in chunk[0]}))
    return Dataset(pyarrow.concat_tables(chunks)) if chunks else Dataset.from_list([])
