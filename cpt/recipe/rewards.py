"""The rewards that a recipe may give as `reward` and `metric`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, get_args

from pydantic import Field, field_validator

from cpt.plain_text import normal
from cpt.recipe.base import Strict


class Verifier(Strict):
    """A way to score an answer: its fields, and the facts of its kind. Its module in cpt/rewards has the name of the kind."""

    example: ClassVar[str]  # how a recipe writes it
    result: ClassVar[str]  # what its value is, in docs/verifier.md
    reads_answers: ClassVar[bool] = (
        False  # says which answer a completion gives, compares it with the row's; `ttrl` can vote
    )
    measures_correctness: ClassVar[bool] = (
        True  # its value is in [0, 1] and says how right an answer is: it can be a metric
    )

    if TYPE_CHECKING:
        kind: str


class Exact(Verifier):
    """The score is 1 if the completion equals the row's `answer`, else 0."""

    example = "exact"
    result = (
        'the completion is the row\'s `answer`. `{kind: exact, after: ["####"]}` compares only what follows the last `####` '
        "of both; also `ignore_case`, `ignore_punctuation`"
    )
    reads_answers = True

    kind: Literal["exact"]
    after: tuple[str, ...] = Field(
        (),
        description="Only the text after the last of these markers is compared, in the completion and in the row's "
        "answer.",
    )
    ignore_case: bool = Field(False, description="If true, upper and lower case are the same.")
    ignore_punctuation: bool = Field(
        False, description="If true, ASCII punctuation is removed before texts are compared."
    )


class Format(Verifier):
    """The score is 1 if the completion contains a match of the regular expression, else 0."""

    example = '{kind: format, pattern: "^<think>.*</think>"}'
    result = "the regular expression is found"

    kind: Literal["format"]
    pattern: str = Field(
        description="The completion must contain a match of this Python regular expression, in which `.` also matches "
        "line ends."
    )
    timeout: float = Field(
        5.0,
        gt=0,
        description="A single call may take this many seconds; longer counts as an answer that could not be scored.",
    )

    @field_validator("pattern")
    @classmethod
    def compiles(cls, value: str) -> str:
        try:
            re.compile(value, re.DOTALL)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class Math(Verifier):
    """The score is 1 if math-verify finds the completion's answer equal to the row's, else 0."""

    example = "math"
    result = "[math-verify](https://github.com/huggingface/Math-Verify) finds the answers equal"
    reads_answers = True

    kind: Literal["math"]
    timeout: float = Field(
        5.0,
        gt=0,
        description="A single call may take this many seconds; longer counts as an answer that could not be scored.",
    )


class Choice(Verifier):
    """The score is 1 if the completion chooses the row's letter, else 0."""

    example = "choice"
    result = "the completion chooses the answer's letter, one of `choices` (`ABCD`)"
    reads_answers = True

    kind: Literal["choice"]
    choices: str = Field(
        "ABCD",
        min_length=2,
        description="These are the letters or digits that can be chosen, written without anything between them.",
    )

    @field_validator("choices")
    @classmethod
    def are_letters(cls, value: str) -> str:
        if not all(len(each.upper()) == 1 and each.isalnum() for each in value):
            raise ValueError(f"{value!r} must be letters or digits, one for each choice, with nothing between: ABCDE")
        if len(set(value.upper())) < len(value):
            raise ValueError(f"{value!r} has a letter twice (upper and lower case are one)")
        return value


class Label(Verifier):
    """The score is 1 if the completion names the row's label and no other one of `labels`, else 0."""

    example = "{kind: label, labels: [positive, negative]}"
    result = "the completion names the row's label and no other one"
    reads_answers = True

    kind: Literal["label"]
    labels: tuple[str, ...] = Field(
        description="These are all the labels that an answer may name; there must be at least two."
    )
    after: tuple[str, ...] = Field(
        (), description="Only the text after the last of these markers is read in the completion."
    )

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
            raise ValueError(f"{len(value)} label(s): an answer must have at least two to choose from")
        return value


class F1(Verifier):
    """The score is F1 of the completion's words against the answer's (1606.05250)."""

    example = "f1"
    result = "(a value between 0 and 1) F1 of the tokens ([1606.05250](https://arxiv.org/abs/1606.05250))"
    reads_answers = True

    kind: Literal["f1"]


class ReasoningGymReward(Verifier):
    """The score is that of the data set's own scorer in reasoning-gym."""

    example = "reasoning_gym"
    result = "(a value between 0 and 1) the data set's own scorer"

    kind: Literal["reasoning_gym"]


class Function(Verifier):
    """The score is what your own `module:function` returns; it is called as f(completion, row) in a worker process."""

    example = "judge:polite"
    result = "(any number) your own function, see below"
    measures_correctness = False

    kind: Literal["function"]
    path: str = Field(
        pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$", description="This is the function, as module:function."
    )
    folder: Path | None = Field(
        None, description="The module is looked for in this folder first; if null, in the recipe's own folder."
    )
    timeout: float = Field(
        5.0,
        gt=0,
        description="A single call may take this many seconds; longer counts as an answer that could not be scored.",
    )


class Part(Strict):
    reward: "Reward" = Field(description="This verifier's score is one part of the sum.")
    weight: float = Field(1.0, description="The score is multiplied by this before it is added.")


class Sum(Verifier):
    """The score is the weighted sum of several rewards."""

    example = '[exact, {reward: {kind: format, pattern: "!$"}, weight: 0.2}]'
    result = "(any number) the sum of several"
    measures_correctness = False

    kind: Literal["sum"]
    parts: tuple[Part, ...] = Field(min_length=1, description="The reward is the weighted sum of these parts.")

    @field_validator("parts")
    @classmethod
    def weighs_something(cls, value: tuple[Part, ...]) -> tuple[Part, ...]:
        if not any(part.weight for part in value):
            raise ValueError("has only parts of weight 0, so nothing would be learnt: give one of them another weight")
        return value


class Likelihood(Strict):
    """No answer is asked for: the score is the likelihood of the row's demonstration or text (docs/benchmarks.md)."""

    kind: Literal["likelihood"]


VERIFIERS = (Exact, Format, Math, Choice, Label, F1, ReasoningGymReward, Function, Sum)
Reward = Annotated[Union[VERIFIERS], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)
Metric = Annotated[Union[(*VERIFIERS, Likelihood)], Field(discriminator="kind")]
Part.model_rebuild()
KINDS: dict[str, type[Verifier]] = {get_args(each.model_fields["kind"].annotation)[0]: each for each in VERIFIERS}
READ_ANSWERS = tuple(name for name, kind in KINDS.items() if kind.reads_answers)
MEASURE_CORRECTNESS = tuple(name for name, kind in KINDS.items() if kind.measures_correctness)


def table() -> str:
    """The table of docs/verifier.md."""
    rows = [f"| `{kind.example}` | {kind.result} |" for kind in KINDS.values()]
    return "\n".join(["| `reward:` | 1 where |", "|---|---|", *rows])
