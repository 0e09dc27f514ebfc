"""Tensors of a strategy's state as safetensors: one file, or one a process where they hold parts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from cpt import ranks
from cpt.disk import writing
from cpt.files import apply_umask
from cpt.sharding import is_sharded


def file_in(folder: Path) -> Path:
    return folder / (f"tensors-{ranks.state().process_index}.safetensors" if is_sharded() else "tensors.safetensors")


def write(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """On all ranks. No file where there are no tensors."""
    if tensors and (ranks.is_main() or is_sharded()):
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with writing(file_in(folder), sum(tensor.nbytes for tensor in held.values())):
            folder.mkdir(parents=True, exist_ok=True)
            save_file(held, file_in(folder))
            apply_umask(folder)


def read(folder: Path) -> dict[str, torch.Tensor]:
    """On the CPU; empty where there is no file."""
    return load_file(file_in(folder)) if file_in(folder).is_file() else {}


def trained(model) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name: all of a model's, or an adapter's."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@contextmanager
def put_back(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Whatever is written to the tensors in this block, they have their values again after it (kept in CPU memory)."""
    here = [(each.to_local() if isinstance(each, DTensor) else each).detach() for each in tensors]  # FSDP2: our shard
    kept = [tensor.to("cpu", copy=True) for tensor in here]
    try:
        yield
    finally:
        for tensor, value in zip(here, kept, strict=True):
            tensor.copy_(value)
