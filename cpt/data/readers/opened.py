"""A file's bytes, decompressed where it is compressed."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cpt.errors import UserError

OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
NOT_READ = {
    b"\x28\xb5\x2f\xfd": "zstandard: decompress it first",
    b"PK\x03\x04": "zip: unpack it first (of an Excel workbook: save the sheet as CSV)",
}


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """Raises UserError for compressed data that is damaged or of a kind that is not read, and for UTF-16."""
    with file.open("rb") as stream:
        begins = stream.peek(8)[:8]
        for magic, what in NOT_READ.items():
            if begins.startswith(magic):
                raise UserError(f"{file}: is compressed by {what}")
        if begins.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{file}: is UTF-16, not UTF-8: save it as UTF-8 text")
        opener = next((opener for magic, opener in OPENERS.items() if begins.startswith(magic)), None)
        if opener is None:
            yield stream
            return
        try:
            with opener(stream) as inside:
                yield inside
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise UserError(f"{file}: its compressed data is damaged ({error})") from error


def lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of each line, without a byte order mark."""
    with opened(file) as stream:
        for number, line in enumerate(stream, start=1):
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
