"""Stages: each takes the policy from `stage.source` to `stage.target` by a thin subclass of a TRL trainer.

STAGES maps the recipe's `kind` to its stage; TRL is imported when the first one runs, or by `load`.
"""

from collections.abc import Iterable
from functools import partial
from importlib import import_module

from cpt.context import Services, Stage
from cpt.records import StageRecord

__all__ = ["STAGES", "load"]

MODULES = {
    "sft": "cpt.stages.sft",
    "dpo": "cpt.stages.dpo",
    "rlvr": "cpt.stages.rlvr",
    "hybrid": "cpt.stages.hybrid.trainer",
    "rejection": "cpt.stages.rejection",
    "self-distillation": "cpt.stages.self_distillation",
    "distill": "cpt.stages.distill",
}


def _run(kind: str, stage: Stage, services: Services, rows, strategies) -> StageRecord:
    return import_module(MODULES[kind]).run(stage, services, rows, strategies)


STAGES = {kind: partial(_run, kind) for kind in MODULES}


def load(kinds: Iterable[str]) -> None:
    """Import these kinds' trainers."""
    for kind in kinds:
        import_module(MODULES[kind])
