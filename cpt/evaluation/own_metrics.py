"""Metrics of the user's own: `evaluation.metrics` of a recipe, module:function of one accuracy matrix."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cpt import user_code
from cpt.errors import UserError
from cpt.metric_kinds import MetricKind
from cpt.recipe import Recipe

TRIED = 20  # random matrices that a check gives a metric


class OwnMetric:
    """A user's function of a matrix (T+1, T), as a metric that takes leading axes. `kind` is what the report says of it."""

    def __init__(self, spec: Any):
        self.spec, self.kind, self.function = spec, kind_of(spec), spec.code.target

    def __call__(self, R: np.ndarray) -> np.ndarray | None:
        """(...): the metric of each of the matrices (..., T+1, T); None where it is not defined.

        Raises:
            UserError: the function raises, or returns no number.
        """
        values = [self.of_one(each) for each in R.reshape(-1, *R.shape[-2:])]
        return None if None in values else np.array(values, float).reshape(R.shape[:-2])

    def of_one(self, R: np.ndarray) -> float | None:
        try:
            value = self.function(R.copy())
            number = None if value is None else float(value)
        except Exception as error:
            place = user_code.line_of(error, self.spec.code.files)
            raise UserError(f"{place}: the metric {self.spec.function} fails: {user_code.why(error)}") from error
        if number is not None and not np.isfinite(number):
            raise UserError(
                f"{self.spec.code.place}: the metric {self.spec.function} returns {number}: return None instead"
            )
        return number


def kind_of(spec: Any) -> MetricKind:
    """What gates and the report know of a metric of the user's own."""
    about = spec.about or next(iter((spec.code.target.__doc__ or "").strip().splitlines()), "") or spec.function
    return MetricKind(spec.label, spec.function, about, about, spec.better, lowest=spec.lowest)


def own_metrics(recipe: Recipe) -> dict[str, OwnMetric]:
    """The metrics of the user's own, by their names."""
    return {spec.label: OwnMetric(spec) for spec in recipe.evaluation.metrics}


def check_metric(metric: OwnMetric, tasks: int) -> bool:
    """Whether it has a value in a stream of so many tasks, tried on some matrices.

    Raises:
        UserError: as a call does, or it has a value of some matrices alone.
    """
    drawn = np.random.default_rng(0).random((TRIED, tasks + 1, tasks))
    values = [metric(R) for R in (*drawn, np.zeros_like(drawn[0]), np.ones_like(drawn[0]))]
    if None in values and any(value is not None for value in values):
        spec = metric.spec
        raise UserError(
            f"{spec.code.place}: the metric {spec.function} returns None of some matrices alone: return a number"
        )
    return values[0] is not None


def record(metrics: Mapping[str, OwnMetric]) -> dict[str, dict[str, Any]]:
    """What results.json says of them: {name: {function, about, better, lowest, files: {file: SHA-256}}}."""
    return {
        name: {
            "function": each.spec.function,
            "about": each.kind.about,
            "better": each.kind.better,
            "lowest": each.kind.lowest,
            "files": each.spec.code.digests(),
        }
        for name, each in metrics.items()
    }
