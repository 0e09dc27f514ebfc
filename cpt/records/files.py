"""results.json and manifest.json."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from cpt.records.answers import Count, Scores, Spent
from cpt.records.besides import Baselines, Benchmark, Contamination, During, Likelihoods
from cpt.records.judgement import Attempt, Gate, GateChange, Intervals, NoiseFloor, OwnMetricRecord, Stopped, Verdict
from cpt.records.stages import OverlongRows, RunCost, StageRecord


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
