"""The methods of merging by name, as the streaming pass runs them (cpt/merging/method.py)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Literal

import numpy as np
from torch import Tensor

from cpt.errors import UserError
from cpt.merging import arithmetic, average, breadcrumbs, dare, della, slerp, stock, ties
from cpt.merging.magnitudes import ByMagnitude
from cpt.merging.method import Chunk, Measuring, Method
from cpt.merging.tensors import one_each, shares, task_vectors
from cpt.merging.whole import Survey


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
class Ties(ByMagnitude):
    density: float = 0.2
    scale: float = 1.0
    trim: Literal["tensor", "model"] = "tensor"
    paper = "2306.01708"

    @property
    def strides(self):
        return () if self.trim == "model" else ByMagnitude.strides

    def ranks(self, size):
        return (ties.kept(self.density, size),)

    def survey(self, size, dtype):
        return Survey(self.ranks(size) * len(self.weights), dtype) if self.trim == "model" else None

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


def settle(
    name: str, count: int, weights: Sequence[float] = (), alone: bool = False, **options: float | str | None
) -> Method:
    """The method `name` for `count` models; an option that is None has its default. `alone`: one model may be a mean of one.

    `weights`: none (the default), one, or one a model. One weight is that of each model; in an average of two models (linear,
    wise, slerp) it is the first one's share and the second has the rest.

    Raises:
        UserError: no such method, a wrong number of models or weights, a value or option that the method does not have.
    """
    if name not in METHODS:
        raise UserError(f"method: no {name}; there are {', '.join(METHODS)}")
    kind = METHODS[name]
    if count < (1 if alone and kind.most is None else kind.least) or (kind.most or count) < count:
        wanted = f"{kind.least} models" if kind.least == kind.most else f"at least {kind.least} models"
        raise UserError(f"{name}: wants {wanted}, not {count}{' (and --base)' if kind.needs_base else ''}")
    if weights and kind.weight is None:
        raise UserError(f"--weight: {name} has no weights; leave it out")
    own = {field.name for field in fields(kind)} - {"weights"}
    given = {key: value for key, value in options.items() if value is not None}
    if "trim" in own and given.get("trim", "tensor") not in ("tensor", "model"):
        raise UserError(f"--trim: no {given['trim']}; there are tensor, model")
    numbers = [(key, value) for key, value in given.items() if key != "trim"]
    for key, value in [*numbers, *(("weight", weight) for weight in weights)]:
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
