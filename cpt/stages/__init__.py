"""Stages: each takes the policy from `ctx.source` to `ctx.target` by a thin subclass of a TRL trainer.

STAGES maps the recipe's `kind` to its stage; TRL is imported when the first one runs, or by `load`.
"""

from collections.abc import Iterable
from functools import partial
from importlib import import_module

from cpt.stages.context import StageContext

__all__ = ["STAGES", "StageContext", "load"]


def _run(kind: str, ctx: StageContext, rows, strategies) -> dict:
    return _module(kind).run(ctx, rows, strategies)


def _module(kind: str):
    return import_module(f"cpt.stages.{kind.replace('-', '_')}")


KINDS = ("sft", "dpo", "rlvr", "hybrid", "rejection", "self-distillation", "distill")
STAGES = {kind: partial(_run, kind) for kind in KINDS}


def load(kinds: Iterable[str]) -> None:
    """Import these kinds' trainers."""
    for kind in kinds:
        _module(kind)
