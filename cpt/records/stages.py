"""What stages, merges and the training of a task did."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from cpt.records.answers import Count, Spent


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
