"""The suites that a recipe may list under `evaluation.suites`: names, files, lm-eval's tasks, and your own classes."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, PlainValidator, Tag, field_validator

from cpt import user_code
from cpt.errors import UserError
from cpt.recipe.base import Name, Strict, SuiteSpec
from cpt.recipe.messages import BUILT_IN, LM_EVAL, USERS
from cpt.recipe.user_kinds import Family, UserKind, validated


class UserSuite(UserKind):
    """A suite of your own, whose class makes its tasks (docs/extending.md)."""

    name: Name | None = Field(
        None, description="This is the suite's name, under which its scores are reported; if null, the class's name."
    )


class LmEval(Strict):
    """Tasks of lm-eval (EleutherAI's evaluation harness), asked of the run's own engine (docs/benchmarks.md)."""

    lm_eval: tuple[str, ...] = Field(
        min_length=1,
        description="These are tasks, groups or tags of lm-eval by their names, and files of tasks (.yaml).",
    )
    name: Name = Field("lm_eval", description="This is the suite's name, under which its scores are reported.")
    metric: str | dict[str, str] | None = Field(
        None,
        description="This metric of lm-eval's (`acc_norm`, or `exact_match,flexible-extract` with its filter) is the score "
        "of each question, for all tasks or in a map of tasks; if null, it is the first of the task's metrics that is a "
        "mean over questions.",
    )
    limit: int | None = Field(
        None, gt=0, description="Of each task the first questions are asked, at most this many; if null, all are."
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="Each prompt has this many examples; if null, the task decides."
    )
    apply_chat_template: bool = Field(
        False, description="If true, prompts are sent as chats, through the model's chat template."
    )
    fewshot_as_multiturn: bool | None = Field(
        None,
        description="If true, examples are turns of the chat, if false, parts of the question; if null, they are turns "
        "where `apply_chat_template` is true.",
    )
    system_instruction: str | None = Field(
        None,
        min_length=1,
        description="This system message, or text without a chat template, is put before every prompt.",
    )
    gen_kwargs: dict[str, Any] = Field(
        {}, description="The `generation_kwargs` of tasks that generate text are changed by these keys."
    )
    include_path: Path | None = Field(
        None, description="Tasks are also looked for by their names in this folder, before those that lm-eval has."
    )
    fewshot_seed: int = Field(
        1234, ge=0, description="Examples are drawn with this seed; the training seed never changes them."
    )

    @field_validator("fewshot_as_multiturn")
    @classmethod
    def needs_chats(cls, value: bool | None, info) -> bool | None:
        if value and not info.data.get("apply_chat_template"):
            raise ValueError("is for chats: set `apply_chat_template: true` too, or remove it")
        return value


SUITES = Family("suite", "cpt.evaluation:SuiteKind", SuiteSpec, ("tasks",), UserSuite)


def whose(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    if isinstance(kind, str) and ":" in kind:
        return USERS
    is_lm_eval = isinstance(value, LmEval) or (isinstance(value, Mapping) and bool(value.keys() - {"name"}))
    return LM_EVAL if is_lm_eval else BUILT_IN


SuiteName = Annotated[
    Annotated[str, Tag(BUILT_IN)]
    | Annotated[LmEval, Tag(LM_EVAL)]
    | Annotated[Any, PlainValidator(partial(validated, SUITES), json_schema_input_type=UserSuite), Tag(USERS)],
    Discriminator(whose),
]


def tasks_of(spec: Any) -> list[dict[str, Any]]:
    """The tasks of a suite of the user's own, as a suite's file has them. Raises UserError where they cannot be made."""
    code: user_code.Code = spec.code
    try:
        first, second = (json.dumps(spec.implemented()(spec).tasks()) for _ in range(2))
    except Exception as error:
        raise UserError(f"{user_code.line_of(error, code.files)}: {user_code.why(error)}") from error
    if first != second:
        raise UserError(f"{code.place}: its tasks are others each time: give its random numbers a seed")
    return json.loads(first)
