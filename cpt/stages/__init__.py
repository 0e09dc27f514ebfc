"""Stages: each takes the policy from `ctx.source` to `ctx.target` by a thin subclass of a TRL trainer.

STAGES maps the recipe's `kind` to its stage; TRL is imported when the first one runs.
"""

from cpt.stages.context import StageContext

__all__ = ["STAGES", "StageContext"]


def _sft(ctx: StageContext, rows, strategies) -> dict:
    from cpt.stages.sft import run

    return run(ctx, rows, strategies)


def _dpo(ctx: StageContext, rows, strategies) -> dict:
    from cpt.stages.dpo import run

    return run(ctx, rows, strategies)


def _rlvr(ctx: StageContext, rows, strategies) -> dict:
    from cpt.stages.rlvr import run

    return run(ctx, rows, strategies)


STAGES = {"sft": _sft, "dpo": _dpo, "rlvr": _rlvr}
