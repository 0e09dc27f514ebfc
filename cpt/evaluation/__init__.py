"""Judging a stream: asking the questions (`evaluate`), the matrix and its metrics, their intervals, and the gates."""

from cpt.evaluation.suite_kind import SuiteKind
from cpt.recipe.base import SuiteSpec

__all__ = ["SuiteKind", "SuiteSpec"]
