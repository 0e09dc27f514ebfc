"""Arrow's columns (Parquet, the hub) as Python values, none of them changed.

Numbers that are no integers get the shortest decimals that are this number, in the column's own width (a float32 0.1 is
`0.1`). Dates and times are text. In a struct a null is a key that the row does not have: Arrow gives every row all keys.
"""

import re
from collections.abc import Iterator
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
    found = column.to_pylist()
    if types.is_map(kind):
        return [None if value is None else dict(value) for value in found]
    if is_list(kind) and is_json(kind.value_type):
        return [None if each is None else [text and DECODER.decode(text) for text in each] for each in found]
    return [without_nulls(value) for value in found] if holds_struct(kind) else found


def is_json(kind) -> bool:
    return isinstance(kind, pyarrow.JsonType)


def is_list(kind) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def holds_struct(kind) -> bool:
    return types.is_struct(kind) or (is_list(kind) and holds_struct(kind.value_type))


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
    return FRACTION.sub(lambda found: found[0].rstrip("0").rstrip("."), text, count=1)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value
