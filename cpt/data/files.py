"""Rows of local files: JSON lines, JSON, CSV, TSV and Parquet, or folders of them.

The rows of a file stay in memory under a hash of its bytes. So a check, the run after it and its manifest have the same rows
and read them once, and another content under the same name is read again.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from cpt.data.loaded import Rows
from cpt.data.readers import Options, before_number, ending_format, records
from cpt.data.readers.folder import files
from cpt.data.reading import rows_of
from cpt.errors import RecipeErrors, UserError
from cpt.recipe import File

KEPT = 32  # tables that stay in memory

_tables: "OrderedDict[tuple, Rows | RecipeErrors]" = OrderedDict()


def load(source: File, path: Path) -> Rows:
    """The rows of a file or folder.

    Raises:
        UserError: it cannot be read.
        RecipeErrors: see `reading.rows_of`.
    """
    options = Options(source.file_format, source.field, source.delimiter)
    paths = files(path, options)
    other = ending_format(path)
    if source.source == "jsonl" and other in ("csv", "tsv", "parquet"):
        raise UserError(f"{path}: is {other} by its ending, not JSON lines: write `source: file`")
    content = digest(paths)
    key = (*map(str, paths), content, options, source.mapping())
    if key not in _tables:
        table = read(source, path, paths, options)
        if digest(paths) != content:
            raise UserError(f"{path}: changed while it was read: run the command again when it is complete")
        _tables[key] = table
        if len(_tables) > KEPT:
            _tables.popitem(last=False)
    _tables.move_to_end(key)
    if isinstance(_tables[key], RecipeErrors):
        raise _tables[key]
    return _tables[key]


def read(source: File, path: Path, paths: Sequence[Path], options: Options) -> "Rows | RecipeErrors":
    """What `load` gives or raises."""
    parts = ((before_number(file, options), records(file, options)) for file in paths)
    try:
        return rows_of(parts, source, str(path))
    except RecipeErrors as error:
        return error


def digest(paths: Sequence[Path]) -> str:
    """Of the bytes of all files. Raises UserError."""
    digest_of_all = hashlib.sha256()
    for file in paths:
        try:
            with file.open("rb") as stream:
                digest_of_all.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    return digest_of_all.hexdigest()
