"""What is measured besides the matrix: within stages, baselines, likelihoods, benchmarks, contamination."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from cpt.records.answers import Count, Scores, Span


class DuringLine(TypedDict):
    """A line of during.jsonl: an evaluation within a stage. `scores` are {task: {row: score}}."""

    task: str
    stage: Annotated[str, Field(pattern=r"^\d+-")]
    step: Count
    max_steps: Count
    seconds: float
    rollout_tokens: Count
    scores: Annotated[dict[str, Annotated[dict[str, float], Field(min_length=1)]], Field(min_length=1)]


class DuringCurve(TypedDict):
    """A task's accuracy over the optimiser steps of the stream; `after`: how many tasks had begun."""

    steps: list[Count]
    accuracy: Scores
    after: list[Count]


class DuringStage(TypedDict):
    """The first and last optimiser step of a stage, counted over the stream."""

    task: str
    stage: str
    start: Count
    end: Count


class During(TypedDict):
    """Evaluation within stages. `questions` are asked of each task; `window` is that of the windowed metrics."""

    every: Count
    questions: dict[str, Count]
    curves: dict[str, DuringCurve]
    stages: list[DuringStage]
    window: Count
    metrics: dict[str, float | None]
    evaluations: Count
    seconds: float
    rollout_tokens: Count


class BaselineRow(TypedDict):
    """A baseline's scores, of each task in the stream's order, and what it took when it was computed."""

    name: str
    accuracy: Scores
    intervals: list[Span]
    held_out: dict[str, float]
    runs: list[str]
    steps: Count
    train_tokens: Count
    seconds: float
    from_cache: bool


class Measure(TypedDict):
    """A number of the run against its baselines."""

    value: float | None
    interval: Span | None


class Baselines(TypedDict):
    """The baselines that are there, and what the run is against them."""

    rows: list[BaselineRow]
    measures: dict[str, Measure]


class Likelihoods(TypedDict):
    """Of the demonstrations of a task, at each point: the mean over rows of exp(mean log-probability of a token), and over
    all tokens the mean log-probability (nats) and the perplexity."""

    rows: Count
    tokens: Count
    likelihood: Scores
    logprob: Scores
    perplexity: Scores


class Flips(TypedDict):
    """Shares of a task's questions that were right at 00-base and are wrong at a point (lost), or the other way round."""

    lost: float
    gained: float
    lost_beyond_chance: float | None
    gained_beyond_chance: float | None


class Benchmark(TypedDict):
    """A task of lm-eval's: `metric` is its score, `metrics` are all that it computes, at each point; `chance` is what
    guessing among the choices would get; `flips` are of each point against 00-base, of scores that are 0 or 1."""

    metric: str
    questions: Count
    chance: float | None
    metrics: dict[str, Scores]
    flips: list[Flips]


class ContaminatedRow(TypedDict):
    """A row that holds a question of an evaluation: `share` of the question's words, `shared` the longest run of them (None:
    it has the same prompt). Places are files and lines, "" of rows that were made here."""

    task: str
    split: Literal["train", "validation"]
    row: str
    place: str
    evaluation: str  # the task, or suite/task
    question: str
    question_place: str
    share: float
    shared: str | None


class Contamination(TypedDict):
    """Rows that hold questions of evaluations: how many of each task, and the first thousand of them."""

    action: Literal["stop", "drop", "report"] | None
    ngram: Count
    share: float
    rows: dict[str, Count]
    found: list[ContaminatedRow]
