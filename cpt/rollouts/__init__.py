"""Rollout engines: one engine a run, used by training and by evaluation. ENGINES maps the recipe's name to its builder."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from cpt.recipe import Recipe
from cpt.rollouts import memory
from cpt.rollouts.base import Completion, Engine, Sampling, Scored, StaleWeights

__all__ = ["ENGINES", "Completion", "Engine", "Sampling", "Scored", "StaleWeights", "start"]
log = logging.getLogger(__name__)


def _transformers(recipe: Recipe, *_) -> Engine:
    from cpt.rollouts.transformers import TransformersEngine

    return TransformersEngine(recipe.rollouts.batch_size, recipe.rollouts.batch_tokens)


def _vllm(recipe: Recipe, *where) -> Engine:
    from cpt.rollouts.vllm import VllmEngine

    return VllmEngine(recipe, *where)


def _server(recipe: Recipe, *where) -> Engine:
    from cpt.rollouts.server import ServerEngine

    return ServerEngine(recipe, *where)


ENGINES = {"transformers": _transformers, "vllm": _vllm, "server": _server}


def start(recipe: Recipe, base: Path, place: Path, probes: Sequence[list[int]], logfile: Path) -> Engine:
    """The engine that the recipe asks for; it lives as long as the run.

    `base` is the model that the run starts from, `place` a folder for the engine's own files, `probes` a few prompts (token
    ids) on which engine and policy are compared after every sync; what the engine prints goes to `logfile`.
    """
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    log.info("rollouts: %s", memory.batch_text(recipe, config))
    return ENGINES[recipe.rollouts.engine](recipe, base, place, probes, logfile)
