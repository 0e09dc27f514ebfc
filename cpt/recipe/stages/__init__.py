"""The stages of a recipe: what may stand under `stages`, besides the `args` that go to TRL. A kind of stage is one class."""

from typing import Annotated, Union, get_args

from pydantic import Field

from cpt.recipe.stages.base import StageSpec
from cpt.recipe.stages.distillation import Distill, SelfDistillation
from cpt.recipe.stages.hybrid import Hybrid
from cpt.recipe.stages.rlvr import Filter, Overlong, Rlvr, SnrStep
from cpt.recipe.stages.supervised import Dpo, Pairs, Rejection, Samples, Sft

STAGE_MODELS = (Sft, Dpo, Rlvr, Hybrid, Rejection, SelfDistillation, Distill)
Stage = Annotated[Union[STAGE_MODELS], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)
KINDS: dict[str, type[StageSpec]] = {get_args(each.model_fields["kind"].annotation)[0]: each for each in STAGE_MODELS}

__all__ = [
    "KINDS",
    "STAGE_MODELS",
    "Distill",
    "Dpo",
    "Filter",
    "Hybrid",
    "Overlong",
    "Pairs",
    "Rejection",
    "Rlvr",
    "Samples",
    "SelfDistillation",
    "Sft",
    "SnrStep",
    "Stage",
    "StageSpec",
]
