"""PEFT adapters: merged with each other factor by factor, or read as the weights of the model that they are laid over.

A LoRA's change of a tensor W is scaling B A (2106.09685), and the merge of A and of B is not the merge of their products.
`Adapted` computes the rows of W + scaling B A that a chunk needs, in float32 (float64 where a part is that), so nothing but
the two factors of the tensor in hand is held. PEFT's merge_and_unload computes the same in the dtype of each part and rounds
after each step.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cpt.adapters import CONFIG
from cpt.errors import UserError
from cpt.lora import refusal, scaling
from cpt.merging.heads import HEAD, is_embedding, ties_its_head
from cpt.merging.reading import Weights, by, read_config

FREE_TO_DIFFER = {"inference_mode", "revision", "auto_mapping", "peft_version"}  # of an adapter's config
PREFIX = "base_model.model."  # PEFT's, before the names of the model
REMEDY = "apply it to its model with PEFT's merge_and_unload, save the result, and merge the models"
PARTS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")


def check_adapters(folders: Sequence[Path]) -> None:
    """Raise UserError where the adapters' configs differ in what shapes them."""
    configs = [read_config(folder / CONFIG) for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        for key in sorted({*config, *configs[0]} - FREE_TO_DIFFER):
            mine, theirs = (sorted(v) if isinstance(v, list) else v for v in (configs[0].get(key), config.get(key)))
            if mine != theirs:
                raise UserError(
                    f"{CONFIG}: {key} is {mine} in {folders[0]}, {theirs} in {folder}: only adapters with the same "
                    "config can be merged; or read them as weights of their model (--into)"
                )


@dataclass(frozen=True)
class Change:
    """scaling B A, or its transpose: the names of the factors that give the rows and the columns of what they change."""

    rows: str  # B (out x rank), or A (rank x in) where the tensor is in x out
    columns: str
    transposed: bool
    scaling: float


class Adapted(Weights):
    """The weights of the model `onto` under the LoRA of the folder `place`; tensors that were trained whole are the LoRA's.

    Raises:
        UserError: an adapter that is more than W + scaling B A, or not one of this model.
    """

    def __init__(self, place: Path, onto: Path):
        self.place, self.model = place, onto
        self.config = read_config(place / CONFIG)
        problem = refusal({"peft_type": None} | self.config)
        if problem:
            raise UserError(f"{place}: {problem}: {REMEDY}")
        self.adapter, self.base = Weights(place), Weights(onto)
        self.origins = {name: (self.base, name) for name in self.base.entries}  # where the values that are changed lie
        self.changes: dict[str, Change] = {}
        for name in self.adapter.entries:
            self._take(name)
        self._check_tied()
        self.entries = {name: self._entry(name) for name in self.base.entries}
        self.held = threading.local()

    def _take(self, name: str) -> None:
        """Note what the adapter's tensor `name` is for."""
        part = next((part for part in PARTS if name.endswith(part)), None)
        module = name.removeprefix(PREFIX).removesuffix(part or ".weight").removesuffix(".base_layer")
        target = name.removeprefix(PREFIX) if part is None else f"{module}.weight"
        target = target if target in self.base.entries else f"{module}.weight"
        if not name.startswith(PREFIX) or target not in self.base.entries:
            raise UserError(
                f"{self.place}: {name} is for {target}, which {self.model} does not have: is this the adapter's "
                f"model? Or {REMEDY}"
            )
        if part is None:
            base_shape, own_shape = self.base.entries[target].shape, self.adapter.entries[name].shape
            if base_shape != own_shape:
                raise UserError(
                    f"{self.place}: {name} is {by(own_shape)}, {target} of {self.model} {by(base_shape)}: {REMEDY}"
                )
            self.origins[target] = (self.adapter, name)
            return
        number = PARTS.index(part)
        other = name.removesuffix(part) + PARTS[number ^ 1]
        if other not in self.adapter.entries:
            raise UserError(f"{self.place}: has {name} and lacks {other}: save the adapter again")
        if number % 2 == 0:
            self.changes[target] = self._change(name, other, module)

    def _change(self, a: str, b: str, module: str) -> Change:
        of_a, of_b = self.adapter.entries[a].shape, self.adapter.entries[b].shape
        shape = self.base.entries[f"{module}.weight"].shape
        transposed = "lora_embedding" in a or bool(self.config.get("fan_in_fan_out"))
        fits = len(of_a) == len(of_b) == 2 and of_a[0] == of_b[1] > 0
        if not fits or shape != ((of_a[1], of_b[0]) if transposed else (of_b[0], of_a[1])):
            raise UserError(
                f"{self.place}: the factors of {module} are {by(of_a)} and {by(of_b)}, its weight in {self.model} is "
                f"{by(shape)}: is it the adapter's model? Or {REMEDY}"
            )
        rows, columns = (a, b) if transposed else (b, a)
        return Change(rows, columns, transposed, scaling(self.config, module, of_a[0]))

    def _check_tied(self) -> None:
        if not ties_its_head(self.model):
            return
        for name, (origin, _) in self.origins.items():
            if (name == HEAD or is_embedding(name)) and (name in self.changes or origin is self.adapter):
                raise UserError(
                    f"{self.place}: adapts {name}, and {self.model} ties its head to the embedding: the one without the "
                    "other cannot be written; save the model with tie_word_embeddings false first"
                )

    def _entry(self, name: str):
        source, own = self.origins[name]
        entry, change = source.entries[own], self.changes.get(name)
        if change is None:
            return entry
        dtypes = {entry.dtype, *(self.adapter.entries[each].dtype for each in (change.rows, change.columns))}
        if not all(dtype.is_floating_point for dtype in dtypes):
            raise UserError(f"{self.place}: {name} or its factors are integers, which cannot be merged")
        return replace(entry, dtype=torch.float64 if torch.float64 in dtypes else torch.float32)

    def written(self, name: str) -> torch.dtype:
        return self.base.entries[name].dtype

    def __enter__(self) -> "Adapted":
        self.adapter.__enter__(), self.base.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.adapter.__exit__(*error), self.base.__exit__(*error)

    def read(self, name: str, start: int, buffer: torch.Tensor) -> None:
        source, own = self.origins[name]
        if name not in self.changes:
            source.read(own, start, buffer)
            return
        values = buffer.view(self.entries[name].dtype)
        first, dtype = start // values.itemsize, source.entries[own].dtype
        raw = torch.empty(len(values) * dtype.itemsize, dtype=torch.uint8)
        source.read(own, first * dtype.itemsize, raw)
        values.copy_(raw.view(dtype))
        left, right = self._factors(name, values.dtype)
        width = right.shape[1]
        top, end = first // width, first + len(values)
        change_RC = (left[top : -(-end // width)] @ right).mul_(self.changes[name].scaling)
        values.add_(change_RC.view(-1)[first - top * width : end - top * width])

    def _factors(self, name: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The two factors of the tensor, whose product has its shape. A thread keeps those of the tensor that it is at."""
        if getattr(self.held, "name", None) != name:
            change = self.changes[name]
            left, right = (self.adapter.tensor(each).to(dtype) for each in (change.rows, change.columns))
            self.held.factors = (left.T.contiguous(), right.T.contiguous()) if change.transposed else (left, right)
            self.held.name = name
        return self.held.factors

    def soon(self, name: str, start: int, count: int) -> None:
        source, own = self.origins[name]
        itemsize, source_itemsize = self.entries[name].dtype.itemsize, source.entries[own].dtype.itemsize
        source.soon(own, start // itemsize * source_itemsize, count // itemsize * source_itemsize)
