"""Rollout engines: one engine a run, used by training and by evaluation. ENGINES maps the recipe's name to its builder."""

from cpt.recipe import Rollouts
from cpt.rollouts.base import Completion, Engine, Sampling

__all__ = ["ENGINES", "Completion", "Engine", "Sampling", "start"]


def _transformers(settings: Rollouts) -> Engine:
    from cpt.rollouts.transformers import TransformersEngine

    return TransformersEngine(settings.batch_size)


ENGINES = {"transformers": _transformers}


def start(settings: Rollouts) -> Engine:
    """The engine that the recipe asks for; it lives as long as the run."""
    return ENGINES[settings.engine](settings)
