"""Verifiers: (completion, row) -> float, one a file, pure. A `Scorer` calls them so that none can stop the run."""

from cpt.rewards.scorer import Failure, Score, Scorer, Scorers, TaskScorers, failure_lines
from cpt.rewards.verifiers import build

__all__ = ["Failure", "Score", "Scorer", "Scorers", "TaskScorers", "build", "failure_lines"]
