"""The form of what a run writes and reads back. Keys may be added, never changed; those that are not here are left alone.

`check` compares a value that was read with its form: a file that was edited, cut or mixed up is reported in one line.
"""

from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cpt.files import hash_of

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


class Candidate(TypedDict):
    """One value of a merge's search. `accuracy` is of each task on its validation rows."""

    value: float | None
    accuracy: Annotated[dict[str, float], Field(min_length=1)]
    mean: float
    breaks: list[str]
    taken: bool


class MergeMemory(TypedDict):
    rows: Count
    steps: Count


class MergeRecord(Spent):
    """What a merge did, under `merges` of a stage. `value` is of `option`, the method's weight or scale; `points` are the old
    models; `curve` is of a search, else empty; `told` says it in a line; `memory` is of a second model that was trained."""

    strategy: str
    method: NotRequired[str]
    after: NotRequired[Literal["stage", "task"]]
    feed_back: NotRequired[bool]
    option: str | None
    points: NotRequired[list[str]]
    value: NotRequired[float | None]
    merged: NotRequired[bool]
    curve: list[Candidate]
    told: str
    memory: NotRequired[MergeMemory]


class Rehearsal(TypedDict):
    """rehearsal.json: what the training of a merge's second model took."""

    rows: Count
    steps: Count
    seconds: float
    train_tokens: Count


class ValidationResult(TypedDict):
    """Of judged.json, which is {a value of a merge's search: this}. `accuracy` is of each task on its validation rows."""

    accuracy: dict[str, float]
    seconds: float
    rollout_tokens: Count


class MergeFile(TypedDict):
    """merge.json beside merged weights. The method's options stand in it by their names."""

    method: str
    models: list[str]
    base: str | None
    into: str | None
    fishers: list[str]
    weights: NotRequired[list[float]]
    scale: NotRequired[float]
    density: NotRequired[float]
    gamma: NotRequired[float]
    epsilon: NotRequired[float]
    trim: NotRequired[Literal["tensor", "model"]]
    seed: NotRequired[Count]
    dtype: str | None
    cpt: NotRequired[str]  # in the file


class FilterRecord(TypedDict):
    """What the filter of an rlvr stage kept. `dropped` are rows; the first `opening` kept ones have rollouts already."""

    drop: str
    prompts: Annotated[int, Field(ge=1)]
    kept: Count
    dropped: list[Any]
    opening: NotRequired[Count]


class StageCost(Spent):
    """costs.json of a checkpoint, and a part of a stage's record. `verifier_errors` is {how a verifier failed: times}."""

    verifier_errors: NotRequired[dict[str, Count]]


class StageRecord(StageCost):
    """What a stage did: stage.json, then one of stages.json and of `stages` in results.json."""

    point: NotRequired[str]  # in results.json
    task: str
    stage: str
    kind: str
    steps: Count
    notes: list[str]
    merges: NotRequired[list[MergeRecord]]
    filter: NotRequired[FilterRecord | None]


class RunCost(Spent):
    """`cost` of results.json: in all, by POINT/STAGE, and by the merge's place and strategy."""

    stages: NotRequired[dict[str, Spent]]
    merges: NotRequired[dict[str, Spent]]
    during: NotRequired[Spent]  # evaluations within stages


class OverlongRows(TypedDict):
    """Of one split: how many rows there are, and how many were left out or cut because they were too long."""

    rows: Count
    left_out: NotRequired[Count]  # where there were any
    cut: NotRequired[Count]


class Gate(TypedDict):
    name: str
    limit: float
    direction: Literal["max", "min"]
    value: float | None
    interval: Span | None
    rule: Literal["point", "interval", "non_inferiority"]
    tier: NotRequired[Literal["critical", "supporting", "tracked"]]
    passed: bool
    outcome: NotRequired[Literal["passed", "failed", "inconclusive", "missing"]]
    noise: NotRequired[float]
    questions_needed: NotRequired[Count]
    reason: str
    message: str


class WorstTask(TypedDict):
    """The task that lost most since its best row. `lost` is null where nothing came after any task."""

    task: str
    lost: float | None
    interval: Span | None
    base: float
    final: float


class GateChange(TypedDict):
    """A change of a run's gates when it had results already: when, how many points were evaluated, and what was changed."""

    when: str
    points: Count
    changes: list[str]


class Verdict(TypedDict):
    """What the gates say of the model as a whole."""

    verdict: Literal["ship", "do not ship", "inconclusive", "no gates"]
    sentence: str
    worst: WorstTask
    failed: list[str]
    inconclusive: list[str]


class Attempt(TypedDict):
    """A training of a task that failed gates and was set aside. `accuracy` is of the tasks so far; the rest is its cost."""

    point: str
    attempt: Count
    change: str
    failed: list[str]
    accuracy: dict[str, float]
    seconds: float
    train_tokens: Count
    rollout_tokens: Count


class Stopped(TypedDict):
    """Where a gate ended the stream."""

    point: str
    failed: list[str]


class Spread(TypedDict):
    """Of one task or suite: how repeated evaluations of the same weights differed from the first one."""

    questions: Count
    changed: Count  # answers whose score changed in a repeat, over all repeats
    largest_difference: float  # of the mean score


class NoiseFloor(TypedDict):
    """How much the score of the untouched model varies when it is evaluated again under another batching."""

    repeats: Count
    answers: Count
    changed: Count  # answers whose text changed
    tasks: dict[str, Spread]
    suites: dict[str, Spread]


class NoiseRecord(TypedDict):
    """noise_floor.json: `base` is the hash of the answers that the repeats were compared with, `changed` are the others."""

    base: str
    seconds: float
    rollout_tokens: Count
    floor: NoiseFloor
    changed: list[dict[str, Any]]


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


class Intervals(TypedDict):
    accuracy: list[list[Span]]
    held_out: dict[str, list[Span]]
    metrics: dict[str, Span | None]
    forgetting_by_task: dict[str, Span | None]
    below_base_by_task: NotRequired[dict[str, Span | None]]
    held_out_drop: dict[str, Span | None]


class OwnMetricRecord(TypedDict):
    """What a metric of the user's own is. `files` are the files of its code and their hashes."""

    function: str
    about: str
    better: Literal["higher", "lower"]
    lowest: float
    files: dict[str, str]


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


class Results(TypedDict):
    """results.json."""

    format: int
    complete: bool
    recipe: str
    seed: int
    tasks: Annotated[list[str], Field(min_length=1)]
    accuracy: Annotated[list[Scores], Field(min_length=1)]
    sampled: dict[str, dict[str, Scores]]
    held_out: dict[str, Scores]
    held_out_tasks: dict[str, dict[str, Scores]]
    metrics: dict[str, float | None]
    intervals: Intervals
    questions: NotRequired[dict[str, Count]]
    held_out_questions: NotRequired[dict[str, Count]]
    verifier_errors: dict[str, dict[str, dict[str, Count]]]
    cost: RunCost
    own_metrics: NotRequired[dict[str, OwnMetricRecord]]
    selection_bias: NotRequired[dict[str, float]]
    noise_floor: NotRequired[NoiseFloor]
    gates: list[Gate]
    gate_history: NotRequired[list[GateChange]]
    verdict: NotRequired[Verdict | None]
    attempts: NotRequired[list[Attempt]]
    rolled_back: NotRequired[list[str]]
    stopped: NotRequired[Stopped]
    points: Annotated[list[str], Field(min_length=1)]
    stages: list[StageRecord]
    evaluation_cost: dict[str, Spent]
    logged: NotRequired[Count]  # lines of metrics.jsonl
    overlong: NotRequired[dict[str, dict[str, OverlongRows]]]
    contamination: NotRequired[Contamination]
    score_kinds: NotRequired[dict[str, Literal["likelihood"]]]  # of the tasks whose score is no accuracy
    likelihood: NotRequired[dict[str, Likelihoods]]
    benchmarks: NotRequired[dict[str, dict[str, Benchmark]]]
    during: NotRequired[During]
    baselines: NotRequired[Baselines]
    resolved_recipe: NotRequired[str]
    sha256: NotRequired[str]  # see `fingerprint`


class Git(TypedDict):
    commit: str | None
    dirty: bool | None
    diff: str | None


class Hardware(TypedDict):
    machine: str
    cores: int | None
    memory_bytes: Count
    gpus: list[str]
    threads: Count


class Rows(TypedDict):
    rows: Count
    hash: str


class Manifest(TypedDict):
    """manifest.json."""

    cpt: str
    versions: dict[str, str]
    seed: int
    model_seed: int
    data_seed: int
    hardware: Hardware
    world_size: Annotated[int, Field(ge=1)]
    data: dict[str, dict[str, Rows]]
    verifiers: NotRequired[dict[str, dict[str, str]]]
    user_code: NotRequired[dict[str, dict[str, str]]]
    contamination: NotRequired[Contamination]
    overlong: NotRequired[dict[str, dict[str, OverlongRows]]]
    git: Git
    created: str
    command: str
    sha256: NotRequired[str]  # of all the rest


def wrong(value: Any, form: type) -> str | None:
    """Where `value` has not this form, and why, in a few words (`accuracy.0.2: should be a valid number`); None if it has."""
    try:
        _adapter(form).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    return None


UNLIKE = (
    "when",
    "seconds",
    "peak_memory_bytes",
    "cost",
    "evaluation_cost",
    "from_cache",
    "sha256",
)  # in two runs that are the same


def fingerprint(results: dict) -> str:
    """The hash of what two runs of one recipe on one machine have in common: of all but time and memory."""
    return hash_of(_alike(results))


def _alike(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _alike(child) for key, child in value.items() if key not in UNLIKE}
    return [_alike(child) for child in value] if isinstance(value, list | tuple) else value


@cache
def _adapter(form: type):
    return TypeAdapter(form)
