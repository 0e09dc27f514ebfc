"""Safetensors files written a piece at a time, from any thread, at the place that the header (known beforehand) gives it.

safetensors' own `save_file` wants every tensor of a file in memory. The format is its own; the widest dtypes come first,
so that each tensor is aligned.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from cpt.files import write_json
from cpt.merging.reading import DTYPES, INDEX, Entry

NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Shape:
    """A tensor to be written."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return Entry(Path(), 0, self.dtype, self.shape).bytes


def shards(tensors: Mapping[str, Shape], limit: int) -> list[list[str]]:
    """The names of each file: filled in the order of `tensors` up to `limit` bytes (a larger tensor has its own)."""
    files: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if files[-1] and filled + tensor.bytes > limit:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += tensor.bytes
    return files


class Writer:
    """The files of `tensors` in `folder`: `stem`.safetensors, or numbered shards with an index. `close` or `abandon` it."""

    def __init__(self, folder: Path, tensors: Mapping[str, Shape], limit: int, stem: str = "model"):
        self.folder, self.descriptors, self.places = folder, [], {}
        parts = shards(tensors, limit)
        count = len(parts)
        names = [f"{stem}-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
        names = names if count > 1 else [f"{stem}.safetensors"]
        for file, part in zip(names, parts, strict=True):
            self._begin(folder / file, {name: tensors[name] for name in part})
        if count > 1:
            weight_map = {name: file for file, part in zip(names, parts, strict=True) for name in part}
            total = sum(tensor.bytes for tensor in tensors.values())
            write_json(
                folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            )

    def _begin(self, file: Path, tensors: Mapping[str, Shape]) -> None:
        order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for name in order:
            tensor = tensors[name]
            header[name] = {
                "dtype": NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [end, end + tensor.bytes],
            }
            end += tensor.bytes
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        start = 8 + len(text)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self.descriptors.append(descriptor)
        os.posix_fallocate(descriptor, 0, start + end)  # a full disk is met here, before any work
        os.pwrite(descriptor, len(text).to_bytes(8, "little") + text, 0)
        for name in order:
            self.places[name] = (descriptor, start + header[name]["data_offsets"][0])

    def write(self, name: str, start: int, data: torch.Tensor) -> None:
        """Write the contiguous tensor `data` from byte `start` of the tensor `name` on. Thread safe."""
        descriptor, place = self.places[name]
        view = memoryview(data.reshape(-1).view(torch.uint8).numpy())
        while len(view):
            put = os.pwrite(descriptor, view, place + start)
            view, start = view[put:], start + put

    def close(self) -> None:
        """All data is on the disk when this returns."""
        for descriptor in self.descriptors:
            os.fsync(descriptor)
        self.abandon()

    def abandon(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []
