"""Arrow's columns (Parquet, the hub) as Python values, none of them changed.

Numbers that are no integers get the shortest decimals that are this number, in the column's own width (a float32 0.1 is
`0.1`). Dates and times are text. In a struct a null is a key that the row does not have: Arrow gives every row all keys.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow
import pyarrow.compute
from pyarrow import types

from cpt.data.readers.json_values import DECODER
from cpt.data.readers.record import Number

FRACTION = re.compile(r"\.\d+")


def dicts(batch: "pyarrow.RecordBatch | pyarrow.Table") -> Iterator[dict[str, Any]]:
    """The rows of a batch."""
    columns = [values(column) for column in batch.columns]
    for row in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, row, strict=True))


def values(column: "pyarrow.Array | pyarrow.ChunkedArray") -> list:
    """The values of one column."""
    kind = column.type
    if types.is_dictionary(kind):
        return values(column.cast(kind.value_type))
    if is_json(kind):
        return [None if text is None else DECODER.decode(text) for text in column.to_pylist()]
    if types.is_floating(kind):
        return [None if value is None else number(value, kind) for value in column.to_pylist()]
    if types.is_temporal(kind) and not types.is_duration(kind):
        texts = pyarrow.compute.cast(column, pyarrow.string()).to_pylist()
        return [None if text is None else without_zeros(text) for text in texts]
    if types.is_struct(kind):
        return structs(column)
    if is_list(kind):
        return lists(column)
    if types.is_map(kind):
        return [None if value is None else dict(value) for value in column.to_pylist()]
    return column.to_pylist()


def structs(column: "pyarrow.Array | pyarrow.ChunkedArray") -> list[dict | None]:
    """A null is a key that the row does not have, also within lists in it."""
    names = [field.name for field in column.type]
    parts = [values(pyarrow.compute.struct_field(column, [place])) for place in range(len(names))]
    records = zip(*parts, strict=True) if parts else [()] * len(column)
    rows = ({name: value for name, value in zip(names, row, strict=True) if value is not None} for row in records)
    return [None if gone else row for gone, row in zip(column.is_null().to_pylist(), rows, strict=True)]


def lists(column: "pyarrow.Array | pyarrow.ChunkedArray") -> list[list | None]:
    entries = iter(values(pyarrow.compute.list_flatten(column)))
    lengths = pyarrow.compute.list_value_length(column).to_pylist()
    return [None if length is None else list(islice(entries, length)) for length in lengths]


def is_json(kind) -> bool:
    return isinstance(kind, pyarrow.JsonType)


def is_list(kind) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def number(value: float, kind) -> Number:
    """Raises nothing: infinity and NaN are written as Python writes them."""
    import numpy

    widths = {16: numpy.float16, 32: numpy.float32, 64: numpy.float64}
    narrow = widths[kind.bit_width](value)
    if not numpy.isfinite(narrow):
        return Number(str(value), value)
    plain = 1e-7 <= abs(value) < 1e21 or value == 0
    write = numpy.format_float_positional if plain else numpy.format_float_scientific
    return Number(write(narrow, unique=True, trim="0"), value)


def without_zeros(text: str) -> str:
    """`2024-01-05 12:30:00.500000Z` -> `2024-01-05 12:30:00.5Z`."""
    return FRACTION.sub(lambda match: match[0].rstrip("0").rstrip("."), text, count=1)
