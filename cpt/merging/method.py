"""What a method of merging is, as the streaming pass runs it: some passes that measure, then one that merges by chunks.

A method that must know something of a whole tensor before its first element can be merged (a threshold, an angle) measures
it chunk by chunk: `measure` gives a part, `add` joins two parts, `learn` turns what was gathered into what is known. One that
must know something of the whole model has a `survey` of all tensors before that.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cpt.merging.survey import Survey


@dataclass(frozen=True)
class Chunk:
    """Elements `start` and on of the tensor `name`: of the base, each model, and each model's Fisher, in one dtype."""

    name: str
    start: int
    base: Tensor | None
    models: Sequence[Tensor]
    fishers: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Method(ABC):
    """One method with its settings, by the names and in the defaults of `cpt.merge_methods`. Subclasses merge.

    Attributes:
        weights: one a model.
    """

    weights: tuple[float, ...]
    strides: ClassVar[
        tuple[int, ...]
    ] = ()  # a pass that measures each, before the one that merges: every n-th chunk is seen
    whole_rows = False  # whether a chunk must hold whole rows (the last dimension)
    bfloat16_pairs = False  # whether two models in bfloat16 need no float32 copies: average.interpolated

    def check(self) -> None:
        """Try the settings on a tensor of a few elements. Raises UserError."""
        tensor = torch.zeros(1, 2)
        each = [tensor] * len(self.weights)
        merge_tensor(self, Chunk("", 0, tensor, each, each))

    def survey(self, size: int, dtype: torch.dtype) -> Survey | None:
        """What must be known of the whole model, of `size` parameters, before its first tensor; None: nothing."""
        return None

    @abstractmethod
    def merge(self, known: Any, chunk: Chunk) -> Tensor:
        """The merge of a chunk; `known` is what the last pass learnt, or the survey where there is no other."""


@dataclass(frozen=True)
class Measuring(Method):
    """A method with passes before the merge, one for each of `strides`."""

    @abstractmethod
    def measure(self, number: int, known: Any, chunk: Chunk) -> Any:
        """What pass `number` finds in the chunk."""

    def add(self, number: int, one: Any, two: Any) -> Any:
        return [a + b for a, b in zip(one, two, strict=True)]

    @abstractmethod
    def learn(self, number: int, known: Any, parts: Any, size: int) -> Any:
        """What is known after pass `number` over a tensor of `size` elements."""


@dataclass(frozen=True)
class Again:
    """From `learn`: the pass is to be repeated over the whole tensor, with this known."""

    known: Any


def merge_tensor(method: Method, chunk: Chunk) -> Tensor:
    """The merge of whole tensors (a chunk that is all of it, and all of the model), by the passes."""
    survey = method.survey(chunk.models[0].numel(), chunk.models[0].dtype)
    while survey is not None and survey.known is None:
        survey.add(survey.measure(chunk.base, chunk.models))
        survey.learn()
    known, number = None if survey is None else survey.known, 0
    while number < len(method.strides):
        learnt = method.learn(number, known, method.measure(number, known, chunk), chunk.models[0].numel())
        again = isinstance(learnt, Again)
        known, number = (learnt.known, number) if again else (learnt, number + 1)
    return method.merge(known, chunk)
