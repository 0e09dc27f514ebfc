"""Answers, what the trainers log, and what something took."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

LARGEST = 1e300


Count = Annotated[int, Field(ge=0)]


Span = Annotated[list[float], Field(min_length=2, max_length=2)]


Scores = list[float]


class LoggedPlace(TypedDict):
    task: str
    stage: Annotated[str, Field(pattern=r"^\d+-")]
    step: Count
    max_steps: Count


def numbers(line: Any) -> Any:
    """What the trainer logs is numbers, or null."""
    for name, value in line.items() if isinstance(line, dict) else ():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
        if not (name in ("task", "stage") or value is None or is_number):
            raise ValueError(f"{name} should be a number")
    return line


# A line of metrics.jsonl: the place, and what the trainer logs.
Logged = Annotated[LoggedPlace, BeforeValidator(numbers)]


class Answer(TypedDict):
    """A line of evaluations/POINT.jsonl."""

    suite: str | None
    task: str
    row: str
    prompt: Any
    answer: Any
    mode: Literal["greedy", "sampled", "likelihood"]
    sample: Count
    completion: str
    finished: bool
    score: float
    error: str | None
    kind: NotRequired[Literal["likelihood", "lm_eval"]]  # without it: answered, and scored by a verifier
    metric: NotRequired[str]  # what `score` is
    metrics: NotRequired[dict[str, float]]  # all that lm-eval computes of the question
    log_likelihoods: NotRequired[list[float]]  # in nats: of each choice, or of the demonstration, target or text
    choices: NotRequired[Count]
    chosen: NotRequired[Count]
    tokens: NotRequired[Count]  # that the log-likelihood is of
    bytes: NotRequired[Count]
    response: NotRequired[str]  # as it was generated, where lm-eval's filter changes it


class Spent(TypedDict):
    seconds: float
    train_tokens: NotRequired[Count]
    rollout_tokens: NotRequired[Count]
    peak_memory_bytes: NotRequired[Count | None]


class EvaluationCost(TypedDict):
    """evaluations/POINT.cost.json."""

    seconds: float
    rollout_tokens: Count
    sha256: str
