"""The methods by name, as the streaming pass runs them: some passes that measure a tensor, then one that merges it by chunks.

A method that must know something of a whole tensor before its first element can be merged (a threshold, an angle) measures
it chunk by chunk: `measure` gives a part, `add` joins two parts, `learn` turns what was gathered into what is known.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cpt.errors import UserError
from cpt.merging import arithmetic, average, breadcrumbs, dare, della, selection, slerp, stock, ties
from cpt.merging.tensors import one_each, shares, task_vectors


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
    """One method with its settings. Subclasses say what it needs, and merge.

    Attributes:
        weights: one a model.
    """

    weights: tuple[float, ...]
    strides: ClassVar[
        tuple[int, ...]
    ] = ()  # a pass that measures each, before the one that merges: every n-th chunk is seen
    whole_rows = False  # whether a chunk must hold whole rows (the last dimension)
    bfloat16_pairs = False  # whether two models in bfloat16 need no float32 copies: average.interpolated
    needs_base = False
    needs_fisher = False
    least, most = 1, None  # models
    paper = ""
    weight: ClassVar[float | None] = 1.0  # of each model unless given; None where the method has no weights

    def check(self) -> None:
        """Try the settings on a tensor of a few elements. Raises UserError."""
        tensor = torch.zeros(1, 2)
        chunk = Chunk(
            "", 0, tensor if self.needs_base else None, [tensor] * len(self.weights), [tensor] * len(self.weights)
        )
        merge_tensor(self, chunk)

    @abstractmethod
    def merge(self, known: Any, chunk: Chunk) -> Tensor:
        """The merge of a chunk; `known` is what the last pass learnt."""


@dataclass(frozen=True)
class Measuring(Method):
    """A method with passes before the merge, one for each of `strides`."""

    @abstractmethod
    def measure(self, number: int, known: Any, chunk: Chunk) -> Any:
        """What pass `number` finds in the chunk."""

    def add(self, number: int, one: Any, two: Any) -> Any:
        return [a + b for a, b in zip(one, two, strict=True)]

    @abstractmethod
    def learn(self, number: int, known: Any, found: Any, size: int) -> Any:
        """What is known after pass `number` over a tensor of `size` elements."""


def merge_tensor(method: Method, chunk: Chunk) -> Tensor:
    """The merge of whole tensors (a chunk that is all of it), by the passes."""
    known, number = None, 0
    while number < len(method.strides):
        learnt = method.learn(number, known, method.measure(number, known, chunk), chunk.models[0].numel())
        again = isinstance(learnt, Again)
        known, number = (learnt.known, number) if again else (learnt, number + 1)
    return method.merge(known, chunk)


@dataclass(frozen=True)
class Linear(Method):
    least, paper, bfloat16_pairs = 2, "2203.05482", True

    def merge(self, known, chunk):
        return average.linear(chunk.models, self.weights)


@dataclass(frozen=True)
class Soup(Linear):
    weight = None

    def merge(self, known, chunk):
        return average.soup(chunk.models)


@dataclass(frozen=True)
class Wise(Method):
    least, most, paper, weight, bfloat16_pairs = 2, 2, "2109.01903", 0.5, True

    def merge(self, known, chunk):
        return average.wise(*chunk.models, weight=first_share(self.weights))


@dataclass(frozen=True)
class Fisher(Method):
    least, needs_fisher, paper = 2, True, "2111.09832"

    def merge(self, known, chunk):
        return average.fisher(chunk.models, chunk.fishers, self.weights)


@dataclass(frozen=True)
class Slerp(Measuring):
    least, most, strides, weight = 2, 2, (1,), 0.5

    def measure(self, number, known, chunk):
        return slerp.products(*chunk.models)

    def add(self, number, one, two):
        return one + two

    def learn(self, number, known, found, size):
        return slerp.cosine_of(*found.tolist())

    def merge(self, known, chunk):
        return slerp.slerp(*chunk.models, t=1 - first_share(self.weights), cosine=known)


@dataclass(frozen=True)
class FromBase(Method):
    needs_base = True


@dataclass(frozen=True)
class TaskArithmetic(FromBase):
    scale: float = 0.3
    paper = "2212.04089"

    def merge(self, known, chunk):
        return arithmetic.task_arithmetic(chunk.base, chunk.models, self.weights, self.scale)


@dataclass(frozen=True)
class Aim(FromBase):
    least, most, paper, weight = 2, 2, "2509.17348", 0.5

    def merge(self, known, chunk):
        return arithmetic.aim(chunk.base, *chunk.models, weights=self.weights)


@dataclass(frozen=True)
class MagMax(FromBase):
    weight = None
    scale: float = 0.5
    paper = "2407.06322"

    def merge(self, known, chunk):
        return arithmetic.magmax(chunk.base, chunk.models, self.scale)


@dataclass(frozen=True)
class ModelStock(FromBase, Measuring):
    weight = None
    strides, least, paper = (1,), 2, "2403.19522"

    def measure(self, number, known, chunk):
        return stock.gram(task_vectors(chunk.base, chunk.models)[1])

    def add(self, number, one, two):
        return one + two

    def learn(self, number, known, found, size):
        return stock.share_of(found)

    def merge(self, known, chunk):
        return stock.model_stock(chunk.base, chunk.models, share=known)


@dataclass(frozen=True)
class Again:
    """From `learn`: the pass is to be repeated over the whole tensor, with this known."""

    known: Any


@dataclass(frozen=True)
class Search:
    """Of one rank in one task vector: the bins between which it should lie (selection.between), or None: not known."""

    rank: int
    bins: tuple[int, int] | None = None


@dataclass(frozen=True)
class ByMagnitude(FromBase, Measuring):
    """Finds, in each task vector, the magnitudes of the ranks that `ranks` names.

    Pass 0 counts the bins of a sample; pass 1 collects the few between which a rank should lie. Where it does not, the bins
    of the whole are counted, and pass 1 comes again with the right one.
    """

    density: float = 1.0
    strides = (8, 1)

    @abstractmethod
    def ranks(self, size: int) -> tuple[int, ...]:
        """1 is the largest of `size` magnitudes."""

    def measure(self, number, known, chunk):
        _, taus = task_vectors(chunk.base, chunk.models)
        if known is None:
            return [selection.count(tau) for tau in taus]
        return [Found.of(tau, search) for tau, searches in zip(taus, known, strict=True) for search in searches]

    def learn(self, number, known, found, size):
        ranks = self.ranks(size)
        if number == 0:
            return [[Search(k, selection.between(bins, k, size)) for k in ranks] for bins in found]
        if known is None:
            exact = [[selection.locate(bins, k)[0] for k in ranks] for bins in found]
            return Again([[Search(k, (place, place)) for k, place in zip(ranks, mine, strict=True)] for mine in exact])
        if not all(each.has_it for each in found):
            return Again(None)
        return [[each.value() for each in found[n : n + len(ranks)]] for n in range(0, len(found), len(ranks))]


@dataclass(frozen=True)
class Found:
    """What a chunk holds of a search: how many magnitudes above its bins, and the bits of those in them."""

    search: Search
    dtype: torch.dtype
    above: int
    parts: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, tau: Tensor, search: Search) -> "Found":
        above, part = selection.collect(tau, *search.bins)
        return cls(search, tau.dtype, above, (part,))

    def __add__(self, other: "Found") -> "Found":
        return Found(self.search, self.dtype, self.above + other.above, self.parts + other.parts)

    @property
    def has_it(self) -> bool:
        return self.above < self.search.rank <= self.above + sum(part.size for part in self.parts)

    def value(self) -> float:
        return selection.select(self.parts, self.search.rank - self.above, self.dtype)


@dataclass(frozen=True)
class Ties(ByMagnitude):
    density: float = 0.2
    scale: float = 1.0
    paper = "2306.01708"

    def ranks(self, size):
        return (ties.kept(self.density, size),)

    def merge(self, known, chunk):
        thresholds = [threshold for (threshold,) in known]
        return ties.ties(chunk.base, chunk.models, self.weights, self.density, self.scale, thresholds)


@dataclass(frozen=True)
class Breadcrumbs(ByMagnitude):
    density: float = 0.9
    gamma: float = 0.01
    scale: float = 1.0
    paper = "2312.06795"

    def ranks(self, size):
        return breadcrumbs.ranks(self.density, self.gamma, size)

    def merge(self, known, chunk):
        return breadcrumbs.breadcrumbs(
            chunk.base, chunk.models, self.weights, self.density, self.gamma, self.scale, bounds=known
        )


@dataclass(frozen=True)
class Dare(FromBase):
    density: float = 0.1
    scale: float = 1.0
    seed: int = 0
    paper, join = "2311.03099", staticmethod(arithmetic.weighted_sum)

    def masks(self, chunk: Chunk) -> list[Tensor]:
        return dare.drawn(chunk.models, self.density, self.seed, chunk.name, chunk.start)

    def merge(self, known, chunk):
        masks = self.masks(chunk)
        return dare.dare(chunk.base, chunk.models, self.weights, self.density, self.scale, masks, join=self.join)


@dataclass(frozen=True)
class DareTies(Dare):
    join = staticmethod(ties.elected_mean)


@dataclass(frozen=True)
class Della(FromBase, Measuring):
    density: float = 0.5
    epsilon: float = 0.15
    scale: float = 1.0
    seed: int = 0
    strides, whole_rows, paper = (1,), True, "2406.11617"

    def masks(self, chunk: Chunk) -> list[Tensor]:
        _, taus = task_vectors(chunk.base, chunk.models)
        return della.drawn(taus, self.density, self.epsilon, self.seed, chunk.name, chunk.start)

    def measure(self, number, known, chunk):
        _, taus = task_vectors(chunk.base, chunk.models)
        return [np.array(della.magnitudes(tau, tau * mask)) for tau, mask in zip(taus, self.masks(chunk), strict=True)]

    def learn(self, number, known, found, size):
        return [della.ratio(*sums) for sums in found]

    def merge(self, known, chunk):
        return della.della(
            chunk.base, chunk.models, self.weights, self.density, self.epsilon, self.scale, self.masks(chunk), known
        )


METHODS: dict[str, type[Method]] = {
    "linear": Linear,
    "soup": Soup,
    "wise": Wise,
    "slerp": Slerp,
    "task-arithmetic": TaskArithmetic,
    "ties": Ties,
    "dare": Dare,
    "dare-ties": DareTies,
    "della": Della,
    "breadcrumbs": Breadcrumbs,
    "model-stock": ModelStock,
    "magmax": MagMax,
    "fisher": Fisher,
    "aim": Aim,
}


def settle(name: str, count: int, weights: Sequence[float] = (), **options: float | None) -> Method:
    """The method `name` for `count` models; an option that is None has its default.

    `weights`: none (the default), one, or one a model. One weight is that of each model; in an average of two models (linear,
    wise, slerp) it is the first one's share and the second has the rest.

    Raises:
        UserError: no such method, a wrong number of models or weights, a value or option that the method does not have.
    """
    if name not in METHODS:
        raise UserError(f"method: no {name}; there are {', '.join(METHODS)}")
    kind = METHODS[name]
    if count < kind.least or (kind.most or count) < count:
        wanted = f"{kind.least} models" if kind.least == kind.most else f"at least {kind.least} models"
        raise UserError(f"{name}: wants {wanted}, not {count}{' (and --base)' if kind.needs_base else ''}")
    if weights and kind.weight is None:
        raise UserError(f"--weight: {name} has no weights; leave it out")
    own = {field.name for field in fields(kind)} - {"weights"}
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in [*given.items(), *(("weight", weight) for weight in weights)]:
        if not isfinite(value) or (key == "seed" and value < 0):
            raise UserError(f"--{key}: {value:g}: give a number{' of at least 0' if key == 'seed' else ''}")
    for key in given.keys() - own:
        having = [other for other, each in METHODS.items() if key in {field.name for field in fields(each)}]
        raise UserError(f"--{key}: {name} has none (it belongs to {', '.join(having)}); leave it out")
    if len(weights) == 1 and count == 2 and not kind.needs_base and not kind.needs_fisher:
        if not 0 <= weights[0] <= 1:
            raise UserError(
                f"--weight: {weights[0]:g}: alone it is the first model's share, from 0 to 1; or give one for each"
            )
        weights = (weights[0], 1 - weights[0])
    each = one_each(weights[0] if len(weights) == 1 else weights or (kind.weight or 1.0), count)
    method = kind(tuple(each), **given)
    method.check()
    return method


def first_share(weights: Sequence[float]) -> float:
    """The share of the first of two models, in what their weights sum to."""
    first, second = shares(list(weights))
    return first / (first + second)
