"""From the name of a method to the `Method` that merges: the catalogue (`cpt.merge_methods`) says which class that is."""

from collections.abc import Sequence
from importlib import import_module
from math import isfinite

from cpt.errors import UserError
from cpt.merge_methods import METHODS, OPTIONS, MergeMethod, having
from cpt.merging.method import Method
from cpt.merging.tensors import one_each


def make_method(
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
    facts = METHODS[name]
    check_count(facts, count, alone)
    weights = weights_of(facts, count, weights)
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in facts.defaults:
            raise UserError(f"--{key}: {name} does not have it (it belongs to {', '.join(having(key))}); leave it out")
        if problem := OPTIONS[key].problem(value):
            raise UserError(f"--{key}: {problem}")
    method = implementation(facts)(tuple(weights), **{**facts.defaults, **given})
    method.check()
    return method


def implementation(facts: MergeMethod) -> type[Method]:
    """Its class; the module is imported with the first that asks."""
    module, kind = facts.implementation.split(".")
    return getattr(import_module(f"cpt.merging.{module}"), kind)


def check_count(facts: MergeMethod, count: int, alone: bool) -> None:
    if count < (1 if alone and facts.most is None else facts.least) or (facts.most or count) < count:
        wanted = f"{facts.least} models" if facts.least == facts.most else f"at least {facts.least} models"
        raise UserError(f"{facts.name}: needs {wanted}, not {count}{' (and --base)' if facts.needs_base else ''}")


def weights_of(facts: MergeMethod, count: int, weights: Sequence[float]) -> list[float]:
    """One weight for each model. Raises UserError."""
    if weights and facts.weight is None:
        raise UserError(f"--weight: {facts.name} has no weights; leave it out")
    for weight in weights:
        if not isfinite(weight):
            raise UserError(f"--weight: {weight:g}: give a number")
    if len(weights) == 1 and count == 2 and facts.first_weight_is_a_share:
        if not 0 <= weights[0] <= 1:
            raise UserError(
                f"--weight: {weights[0]:g}: alone it is the first model's share, from 0 to 1; or give one for each"
            )
        weights = (weights[0], 1 - weights[0])
    return one_each(weights[0] if len(weights) == 1 else weights or (facts.weight or 1.0), count)
