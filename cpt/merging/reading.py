"""The weights of a model folder, read from its safetensors files a piece at a time.

The format: 8 bytes (the header's length), the header (JSON: name -> dtype, shape, data_offsets), the data. `safe_open`
checks the file; the pieces are read with `preadv` into buffers that are used again, not through a memory map: mapped pages
would count as this process's memory until the kernel takes them back, and each costs a fault.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from cpt import tensor_files
from cpt.errors import UserError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: file, first byte, dtype, shape."""

    file: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize


class Weights:
    """The tensors of a folder (or of one safetensors file). Open while in use: `with Weights(folder) as weights`.

    Raises:
        UserError: no safetensors there, a file that is damaged or lacks, a dtype that is not read, a name twice.
    """

    def __init__(self, place: Path):
        self.place = self.model = place  # `model`: whose config they have
        self.entries: dict[str, Entry] = {}
        for file in files_of(place):
            for name, entry in read_header(file).items():
                if name in self.entries:
                    raise UserError(
                        f"{place}: {name} is in {self.entries[name].file.name} and in {file.name}: remove one file"
                    )
                self.entries[name] = entry
        self.descriptors: dict[Path, int] = {}

    def written(self, name: str) -> torch.dtype:
        """The dtype that the tensor has in a merge whose first model this is."""
        return self.entries[name].dtype

    def __enter__(self) -> "Weights":
        for entry in self.entries.values():
            if entry.file not in self.descriptors:
                self.descriptors[entry.file] = os.open(entry.file, os.O_RDONLY)
        return self

    def __exit__(self, *_) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()

    def read(self, name: str, start: int, buffer: torch.Tensor) -> None:
        """Fill the uint8 tensor `buffer` from byte `start` of the tensor. Thread safe; other threads continue meanwhile."""
        entry = self.entries[name]
        descriptor, place, view = self.descriptors[entry.file], entry.offset + start, memoryview(buffer.numpy())
        while len(view):
            got = os.preadv(descriptor, [view], place)
            if got == 0:
                raise UserError(f"{entry.file}: ends inside {name}: it was cut short while it was read; copy it again")
            view, place = view[got:], place + got

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor, for those that are small."""
        entry = self.entries[name]
        raw = torch.empty(entry.bytes, dtype=torch.uint8)
        self.read(name, 0, raw)
        return raw.view(entry.dtype).reshape(entry.shape)

    def soon(self, name: str, start: int, count: int) -> None:
        """Let the disk begin on `count` bytes from byte `start` of the tensor: they will be read by pieces."""
        entry = self.entries[name]
        os.posix_fadvise(self.descriptors[entry.file], entry.offset + start, count, os.POSIX_FADV_WILLNEED)


def files_of(place: Path) -> list[Path]:
    """The safetensors files of a model or adapter folder, or the file itself. Raises UserError."""
    if place.is_file() and place.suffix == ".safetensors":
        return [place]
    if not place.is_dir():
        raise UserError(f"{place}: no such folder; give a model folder, a run folder or a point of one")
    index = place / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: is damaged (no weight_map): copy it again") from error
        lacking = [name for name in names if not (place / name).is_file()]
        if lacking:
            raise UserError(f"{place}: lacks {', '.join(lacking)}, which {INDEX} names: copy the model again")
        return [place / name for name in names]
    files = sorted(place.glob("*.safetensors"))
    if not files:
        pickled = [file.name for file in sorted(place.iterdir()) if file.suffix in (".bin", ".pt", ".pth", ".gguf")]
        contents = f"only {', '.join(pickled[:2])}, which is not read" if pickled else "no weights"
        raise UserError(f"{place}: no *.safetensors ({contents}): save the model with save_pretrained")
    if len(files) > 1 and (place / "model.safetensors") in files:
        return [place / "model.safetensors"]
    return files


def read_header(file: Path) -> dict[str, Entry]:
    """Every tensor of a safetensors file. Raises UserError where the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):
            pass  # sizes and offsets agree with the file
        header, start = tensor_files.read_header(file)
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: cannot be read as safetensors ({reason}): copy it again") from error
    entries = {}
    for name, tensor in header.items():
        if tensor["dtype"] not in DTYPES:
            raise UserError(f"{file}: {name} is {tensor['dtype']}, which is not merged; there are {', '.join(DTYPES)}")
        entries[name] = Entry(file, start + tensor["data_offsets"][0], DTYPES[tensor["dtype"]], tuple(tensor["shape"]))
    return entries


def read_config(file: Path) -> dict:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file.parent}: no {file.name}: give a model folder (from save_pretrained)") from None
    except ValueError as error:
        raise UserError(f"{file}: is not JSON ({error}): copy it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{file}: is not a JSON object: copy it again")
    return config


def by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a number"
