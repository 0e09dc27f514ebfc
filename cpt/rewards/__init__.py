"""Verifiers: (completion, row) -> float, one a file, pure. A `Scorer` calls them so that none can stop the run."""

from cpt.rewards.scorer import Score, Scorer, Scorers
from cpt.rewards.verifiers import VERIFIERS, build

__all__ = ["VERIFIERS", "Score", "Scorer", "Scorers", "build"]
