"""Stages: each takes the policy from `stage.source` to `stage.target` by a thin subclass of a TRL trainer.

The class of a kind (`cpt.recipe.stages`) names its module, which has `run`; TRL is imported when the first one runs, or by
`load`.
"""

from collections.abc import Iterable

from cpt.context import Services, Stage
from cpt.recipe.stages import StageSpec
from cpt.records import StageRecord
from cpt.stages.kind import StageKind

__all__ = ["StageKind", "StageSpec", "load", "run"]


def run(stage: Stage, services: Services, rows, strategies) -> StageRecord:
    """Train the stage; returns its record."""
    made = stage.spec.implemented()
    runner = made() if isinstance(made, type) else made
    return runner.run(stage, services, rows, strategies)


def load(kinds: Iterable[type[StageSpec]]) -> None:
    """Import these kinds' trainers."""
    for kind in kinds:
        kind.implemented()
