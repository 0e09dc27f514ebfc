"""The stages of a recipe: what may be listed under `stages`, besides the `args` that go to TRL. One class per kind."""

from contextlib import suppress
from typing import Annotated, Any, Union, get_args

from pydantic import Field

from cpt.errors import UserError
from cpt.recipe.stages.base import RowForm, StageSpec
from cpt.recipe.stages.distillation import Distill, SelfDistillation
from cpt.recipe.stages.hybrid import Hybrid
from cpt.recipe.stages.rlvr import Filter, Overlong, Rlvr, SnrStep
from cpt.recipe.stages.supervised import Dpo, Pairs, Rejection, Samples, Sft
from cpt.recipe.trl_configs import TRL_CONFIGS
from cpt.recipe.user_kinds import Family, UserKind, bound, open_to_users

STAGE_MODELS = (Sft, Dpo, Rlvr, Hybrid, Rejection, SelfDistillation, Distill)
BuiltIn = Annotated[Union[STAGE_MODELS], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)
KINDS: dict[str, type[StageSpec]] = {get_args(each.model_fields["kind"].annotation)[0]: each for each in STAGE_MODELS}


class UserStage(UserKind):
    """A kind of stage of your own, in a module beside the recipe or on the Python path (docs/extending.md)."""

    args: dict[str, Any] = Field(
        {}, description="These are fields of the TRL config that the class's `Options` name, passed unchanged."
    )


def wrong_facts(options: type[StageSpec]) -> str | None:
    """What is wrong with the facts that a user's kind of stage states; None where they are right."""
    for name, known in (("trl_config", tuple(TRL_CONFIGS)), ("row_form", get_args(RowForm))):
        if getattr(options, name, None) not in known:
            return f"must have `{name}`, one of: {', '.join(known)}"
    return None


FAMILY = Family("stage", "cpt.stages:StageKind", StageSpec, ("run",), UserStage, wrong_facts)
Stage = open_to_users(BuiltIn, FAMILY)


def stage_class(kind: Any, folder: Any) -> type[StageSpec] | None:
    """The class of a kind of stage, the user's own among them; None where there is none of that name."""
    if isinstance(kind, str) and ":" in kind:
        with suppress(UserError):
            return bound(FAMILY, kind, folder)
    return KINDS.get(kind) if isinstance(kind, str) else None


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
    "stage_class",
]
