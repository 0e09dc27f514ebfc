"""Gates, the verdict, attempts, the noise floor, and the intervals behind them."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from cpt.records.answers import Count, Span


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
