"""The rewards of a recipe: what may stand under `reward` and `metric`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from cpt.plain_text import normal
from cpt.recipe.base import Strict


class Verifier(Strict):
    """One way to judge an answer. What else is known of each kind is in `cpt.verifier_kinds`."""


class Exact(Verifier):
    """1 where the completion is the row's `answer`."""

    kind: Literal["exact"]
    after: tuple[str, ...] = Field(
        (), description="compare only what follows the last of these, in the completion and in the row's answer"
    )
    ignore_case: bool = False
    ignore_punctuation: bool = False


class Format(Verifier):
    """1 where the regular expression is found in the completion (`.` matches line ends too)."""

    kind: Literal["format"]
    pattern: str
    timeout: float = Field(5.0, gt=0, description="seconds a call")

    @field_validator("pattern")
    @classmethod
    def compiles(cls, value: str) -> str:
        try:
            re.compile(value, re.DOTALL)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class Math(Verifier):
    """1 where math-verify finds the completion's answer equal to the row's."""

    kind: Literal["math"]
    timeout: float = Field(5.0, gt=0, description="seconds a call")


class Choice(Verifier):
    """1 where the completion chooses the row's letter."""

    kind: Literal["choice"]
    choices: str = Field("ABCD", min_length=2, description="the letters (or digits) that can be chosen")

    @field_validator("choices")
    @classmethod
    def are_letters(cls, value: str) -> str:
        if not all(len(each.upper()) == 1 and each.isalnum() for each in value):
            raise ValueError(f"{value!r} must be letters or digits, one for each choice, with nothing between: ABCDE")
        if len(set(value.upper())) < len(value):
            raise ValueError(f"{value!r} has a letter twice (upper and lower case are one)")
        return value


class Label(Verifier):
    """1 where the completion names the row's label, and no other one of `labels`."""

    kind: Literal["label"]
    labels: tuple[str, ...] = Field(description="all labels that an answer may name")
    after: tuple[str, ...] = Field((), description="look only at what follows the last of these in the completion")

    @field_validator("labels", mode="before")
    @classmethod
    def from_numbers(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        if truths := [each for each in value if isinstance(each, bool)]:
            raise ValueError(f"{str(truths[0]).lower()} is a truth value in YAML, not a text: put quotes around it")
        return tuple(str(each) if isinstance(each, int) else each for each in value)

    @field_validator("labels")
    @classmethod
    def can_be_told_apart(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        seen: dict[str, str] = {}
        for label in value:
            form = normal(label)
            if not form:
                raise ValueError(f"the label {label!r} has nothing that could be found in an answer")
            if form in seen:
                raise ValueError(
                    f"the labels {seen[form]!r} and {label!r} are one: case, markdown, and whether words are joined by "
                    "space, - or _ do not count"
                )
            seen[form] = label
        if len(value) < 2:
            raise ValueError(f"{len(value)} label(s): an answer must have two at least to choose from")
        return value


class F1(Verifier):
    """F1 of the completion's tokens against the answer's (1606.05250)."""

    kind: Literal["f1"]


class ReasoningGymReward(Verifier):
    """The data set's own scorer."""

    kind: Literal["reasoning_gym"]


class Function(Verifier):
    """The user's `module:function`, called as f(completion, row) in a process that can be killed."""

    kind: Literal["function"]
    path: str = Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$")
    folder: Path | None = Field(None, description="where the module is looked for first; the recipe's own folder")
    timeout: float = Field(5.0, gt=0, description="seconds a call")


class Part(Strict):
    reward: "Reward"
    weight: float = 1.0


class Sum(Verifier):
    """The weighted sum of several rewards."""

    kind: Literal["sum"]
    parts: tuple[Part, ...] = Field(min_length=1)

    @field_validator("parts")
    @classmethod
    def weighs_something(cls, value: tuple[Part, ...]) -> tuple[Part, ...]:
        if not any(part.weight for part in value):
            raise ValueError("weighs all its parts by 0: nothing would be learnt")
        return value


Reward = Annotated[
    Exact | Format | Math | Choice | Label | F1 | ReasoningGymReward | Function | Sum, Field(discriminator="kind")
]
Part.model_rebuild()
