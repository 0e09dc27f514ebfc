"""The form of what a run writes and reads back. Keys may be added, never changed; those that are not here are left alone.

`check` compares a value that was read with its form: a file that was edited, cut or mixed up is told in one line.
"""

from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Len
from typing_extensions import TypedDict

Count = Annotated[int, Ge(0)]
Span = Annotated[list[float], Len(2, 2)]
Scores = list[float]


class Logged(TypedDict):
    """A line of metrics.jsonl: the place, and what the trainer logs (numbers or null)."""

    task: str
    stage: str
    step: Count
    max_steps: Count


class Answer(TypedDict):
    """A line of evaluations/POINT.jsonl."""

    suite: str | None
    task: str
    row: str
    prompt: Any
    answer: Any
    mode: Literal["greedy", "sampled"]
    sample: Count
    completion: str
    finished: bool
    score: float
    error: str | None


class Spent(TypedDict):
    seconds: float
    train_tokens: NotRequired[Count]
    rollout_tokens: NotRequired[Count]
    peak_memory_bytes: NotRequired[Count | None]


class Candidate(TypedDict):
    """One value of a merge's search. `accuracy` is of each task on its validation rows."""

    value: float | None
    accuracy: Annotated[dict[str, float], Len(1)]
    mean: float
    breaks: list[str]
    taken: bool


class MergeMemory(TypedDict):
    rows: Count
    steps: Count


class MergeRecord(Spent):
    strategy: str
    option: str | None
    after: NotRequired[Literal["stage", "task"]]
    curve: list[Candidate]
    told: str
    memory: NotRequired[MergeMemory]


class FilterRecord(TypedDict):
    drop: str
    prompts: Annotated[int, Ge(1)]
    kept: Count
    dropped: list[Any]


class StageRecord(Spent):
    point: NotRequired[str]  # in results.json
    task: str
    stage: str
    kind: str
    steps: Count
    notes: list[str]
    merges: NotRequired[list[MergeRecord]]
    filter: NotRequired[FilterRecord | None]


class Gate(TypedDict):
    name: Literal["forgetting", "held_out_drop", "learning_accuracy"]
    limit: float
    direction: Literal["max", "min"]
    value: float
    interval: Span | None
    rule: Literal["point", "interval"]
    passed: bool
    reason: str
    message: str


class Intervals(TypedDict):
    accuracy: list[list[Span]]
    held_out: dict[str, list[Span]]
    metrics: dict[str, Span | None]
    forgetting_by_task: dict[str, Span | None]
    held_out_drop: dict[str, Span | None]


class Results(TypedDict):
    """results.json."""

    format: int
    complete: bool
    recipe: str
    seed: int
    tasks: Annotated[list[str], Len(1)]
    accuracy: Annotated[list[Scores], Len(1)]
    sampled: dict[str, dict[str, Scores]]
    held_out: dict[str, Scores]
    held_out_tasks: dict[str, dict[str, Scores]]
    metrics: dict[str, float | None]
    intervals: Intervals
    verifier_errors: dict[str, dict[str, dict[str, Count]]]
    cost: Spent
    gates: list[Gate]
    points: Annotated[list[str], Len(1)]
    stages: list[StageRecord]
    evaluation_cost: dict[str, Spent]
    resolved_recipe: NotRequired[str]


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
    world_size: Annotated[int, Ge(1)]
    data: dict[str, dict[str, Rows]]
    git: Git
    created: str
    command: str


def wrong(value: Any, form: type) -> str | None:
    """Where `value` has not this form, and why, in a few words (`accuracy.0.2: should be a valid number`); None if it has."""
    from pydantic import ValidationError

    try:
        _adapter(form).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        words = first["msg"].removeprefix("Input ")
        return f"{place}: {words}" if place else words
    return None


@cache
def _adapter(form: type):
    from pydantic import TypeAdapter

    return TypeAdapter(form)
