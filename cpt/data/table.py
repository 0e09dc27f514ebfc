"""Rows as the `datasets.Dataset` that TRL wants, every row exactly as it was.

Arrow gives one type to a whole column: of nested values, such as the arguments of tool calls, each row would get the keys of
all others, with nulls. So whatever is no text is packed as JSON text (the `Json` feature of `datasets`), and unpacked
wherever a row is looked at.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cpt.data.rows import Row

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

CHUNK = 1000  # rows that are packed at once: Arrow holds less than 2 GB of text in one piece


def table(rows: Iterable[Row]) -> "Dataset":
    """A data set in memory. All rows have the same fields, and each field is text in all rows or in none."""
    import pyarrow
    from datasets import Dataset

    rows, chunks = iter(rows), []
    while chunk := list(itertools.islice(rows, CHUNK)):
        names = list(chunk[0])
        chunks.append(pyarrow.table({name: column([row[name] for row in chunk]) for name in names}))
    return Dataset(pyarrow.concat_tables(chunks)) if chunks else Dataset.from_list([])


def with_column(rows: "Dataset", name: str, values: Sequence[Any]) -> "Dataset":
    """The rows with one column more."""
    import pyarrow
    from datasets import Dataset, concatenate_datasets

    chunks = [column(values[first : first + CHUNK]) for first in range(0, len(values), CHUNK)]
    return concatenate_datasets([rows, Dataset(pyarrow.table({name: pyarrow.chunked_array(chunks)}))], axis=1)


def column(values: Sequence[Any]) -> "pyarrow.Array":
    """Texts as they are; anything else as JSON."""
    import pyarrow

    if all(isinstance(value, str) for value in values):
        return pyarrow.array(values, pyarrow.string())
    packed = [json.dumps(value, ensure_ascii=False) for value in values]
    return pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(packed, pyarrow.string()))
