"""Digests of tensors, the same on both sides of a weight transfer. Torch and the standard library alone."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

SHAPE = ("vocab_size", "hidden_size", "num_hidden_layers")  # of a model, in its config
SAMPLED_ROWS = 1024  # of an embedding or a head, evenly spaced; smaller ones are taken whole


def digest(tensor: torch.Tensor) -> str:
    """A hash of the tensor's very bits."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
    return hashlib.blake2b(flat.numpy().data, digest_size=12).hexdigest()


def stride(rows: int) -> int:
    """Of a table with so many rows, each how-manieth is looked at."""
    return max(1, rows // SAMPLED_ROWS)


def is_norm(name: str, tensor: torch.Tensor) -> bool:
    """Whether a parameter is a normalisation's: these change at every step, and no engine packs or fuses them."""
    return tensor.dim() == 1 and "norm" in name


class WeightDigests:
    """Looks at the policy's tensors as they travel, and remembers what an engine must then have.

    A whole tensor is only here while it is sent, so the rows of embedding and head that are compared are kept (on the CPU).
    """

    def __init__(self, model):
        self.names = {}  # of the tensors that are tables: name -> embedding, head, or both where they are tied
        tables = {"embedding": model.get_input_embeddings(), "head": model.get_output_embeddings()}
        for kind, module in tables.items():
            for name, parameter in model.named_parameters():
                if module is not None and parameter is getattr(module, "weight", None):
                    self.names.setdefault(name, []).append(kind)
        self.norms: list[torch.Tensor] = []
        self.tables: dict[str, tuple[int, torch.Tensor]] = {}

    def watch(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in tensors:
            if name in self.names:
                rows = tensor.detach()[:: stride(len(tensor))].cpu().clone()
                self.tables |= dict.fromkeys(self.names[name], (len(tensor), rows))
            elif is_norm(name, tensor):
                self.norms.append(tensor.detach().cpu().clone())
            yield name, tensor

    def differences(self, has: dict) -> list[str]:
        """What of a worker's fingerprints is not the policy's; empty where all is equal."""
        dtype = getattr(torch, has["dtype"])
        wrong = []
        theirs = list(has["norms"])
        for each in (digest(norm.to(dtype)) for norm in self.norms):
            if each not in theirs:
                wrong.append("norms")
                break
            theirs.remove(each)
        for kind, (rows, sample) in self.tables.items():
            step = stride(rows)
            for start, end, theirs_digest in has[kind]:
                end = min(end, rows)
                first = start + -start % step
                mine = sample[first // step : -(-end // step)].to(dtype)
                if digest(mine) != theirs_digest:
                    wrong.append(kind)
        return wrong


def adapter_digests(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], dtype: str) -> list[str]:
    """The digests that vLLM's copy of a LoRA of PEFT's `config` must have: it folds the scaling into B."""
    scaling = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    digests = []
    for name, tensor in tensors.items():
        cast = tensor.detach().clone().to(getattr(torch, dtype))
        if "lora_B" in name and scaling != 1:
            cast *= scaling
        digests.append(digest(cast))
    return sorted(digests)
