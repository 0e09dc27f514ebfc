"""The header of a safetensors file, read without torch."""

import json
from pathlib import Path
from typing import Any


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """({tensor: its dtype, shape and data_offsets}, the byte at which the data begins).

    The format: 8 bytes (the header's length), the header (JSON), the data.

    Raises:
        OSError, ValueError: it cannot be read, or is no safetensors file.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(min(length, file.stat().st_size)))
    header.pop("__metadata__", None)
    return header, 8 + length
