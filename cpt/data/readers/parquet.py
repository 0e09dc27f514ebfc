"""Parquet, read in batches by pyarrow."""

from collections.abc import Iterator
from pathlib import Path

from cpt.data.readers.record import Record
from cpt.errors import UserError

BATCH = 1000  # rows


def records(file: Path, options) -> Iterator[tuple[int, Record]]:
    """(number of the row, record). Raises UserError for a file that is no Parquet."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    from cpt.data.readers.arrow import dicts

    number = 0
    try:
        with file.open("rb") as stream, ParquetFile(stream) as table:
            names = table.schema_arrow.names
            if twice := [name for place, name in enumerate(names) if name in names[:place]]:
                raise UserError(f"{file}: two columns are called {twice[0]!r}: rename one")
            for batch in table.iter_batches(batch_size=BATCH):
                for record in dicts(batch):
                    number += 1
                    yield number, record
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{file}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})") from error
