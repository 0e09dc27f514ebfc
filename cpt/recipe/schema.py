"""The recipe: strict and frozen. What a key means stands beside it; how a file becomes one is in `loading.py`. A
`Recipe` is complete: every stage carries the `args` it will run with.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cpt.recipe.base import Bounded, Strict, Temperature
from cpt.recipe.rewards import Reward
from cpt.recipe.sources import Source
from cpt.recipe.stages import Stage
from cpt.recipe.strategies import Strategy
from cpt.verifier_kinds import MEASURE_CORRECTNESS, READ_ANSWERS

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


# pydantic's models have a deprecated method of that name, which nobody here calls.
warnings.filterwarnings("ignore", message='Field name "copy" in "Model" shadows')


class Model(Strict):
    path: str = Field(description="`tiny` (the built-in toy model), a model folder, or a hub id (owner/name)")
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="which toy model `tiny` is: 0 comes with cpt, others are trained here",
    )
    revision: str | None = Field(None, description="of the hub's repository")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32", description="of the trained weights (TRL's default)"
    )
    attn_implementation: str | None = Field(
        None, description="word for word to transformers: sdpa, flash_attention_2, ..."
    )
    trust_remote_code: bool = False
    copy: bool = Field(
        True,
        description="the run keeps a copy of the weights; false: links to them, whose hashes are compared at each start",
    )
    chat_template: Path | None = Field(None, description="a Jinja file instead of the tokenizer's own template")
    chat_template_kwargs: dict[str, Any] = Field({}, description="for the template, in training and evaluation alike")


class Adapter(BaseModel):
    """Train a PEFT adapter instead of all weights: `kind` (lora, ia3, ...) and any field of that PEFT config."""

    model_config = ConfigDict(frozen=True, extra="allow")
    kind: str


class DataSettings(Strict):
    seed: int = Field(0, ge=0, description="of the rows that are drawn or made; never the training seed")


class TransformersRollouts(Strict):
    """transformers' `generate` on the policy itself: needs nothing more, and is slow."""

    engine: Literal["transformers"] = "transformers"
    batch_size: int = Field(256, gt=0, description="prompts continued at once, at most")
    batch_tokens: int = Field(
        16_384, gt=0, description="tokens of the prompts continued at once, padding and whole answers included, at most"
    )


class Vllm(Bounded):
    """What both ways to vLLM share: any further key is one of vLLM's engine arguments, word for word."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class VllmRollouts(Vllm):
    """vLLM in the training processes: one engine on each rank (or on `tensor_parallel_size` ranks) for the whole run."""

    engine: Literal["vllm"]
    sleep: Literal[0, 1, 2] | None = Field(
        None, description="vLLM's sleep level while training, on GPUs: default 2 (1 with an adapter), 0 for never"
    )


class ServerRollouts(Vllm):
    """`vllm serve`: the ones at `url`, or, without a url, one that the run starts and ends."""

    engine: Literal["server"]
    url: str | tuple[str, ...] | None = Field(
        None, description="of running servers, http://HOST:PORT or unix:/PATH; requests are spread over them"
    )
    transfer: Literal["auto", "directory", "gloo", "nccl", "ipc"] = Field(
        "auto", description="how weights reach the server"
    )
    directory: Path | None = Field(None, description="for `transfer: directory`, where the servers read; the run's own")
    devices: str | None = Field(None, description="CUDA_VISIBLE_DEVICES of the server that the run starts")
    port: int | None = Field(
        None, gt=0, lt=65536, description="of the server that the run starts; where left out, it has a Unix socket"
    )
    start_timeout: float = Field(600.0, gt=0, description="seconds for the server to come up")
    patience: float = Field(120.0, gt=0, description="seconds without progress after which a server counts as hung")


Rollouts = Annotated[TransformersRollouts | VllmRollouts | ServerRollouts, Field(discriminator="engine")]


class Judged(Strict):
    """What a task of the stream and a task of a suite share: where its rows come from and how answers are judged."""

    task: Name
    data: Source
    reward: Reward | None = None
    metric: Reward | None = Field(None, description="correctness in [0, 1], for evaluation; the reward where left out")
    max_completion_length: int | None = Field(None, gt=0, description="tokens of an evaluated answer")
    stop: tuple[str, ...] = Field((), description="tokens that end an answer, besides the model's own end of sequence")
    prompt: Literal["chat", "raw"] | None = Field(
        None,
        description="How prompts that are strings are sent: as a user's message by the chat template, or as they are. Left "
        "out, as chats if the model stops where its chat template ends an answer",
    )
    system: str | None = Field(
        None, min_length=1, description="System message put before every chat that has none of its own"
    )
    special_tokens: Literal["strip", "keep"] = Field(
        "strip", description="Whether verifiers are given answers with or without the tokenizer's special tokens"
    )
    overlong: Literal["refuse", "drop", "truncate"] = Field(
        "refuse",
        description="What happens to rows that are too long: stop, leave them out, or cut what is trained on",
    )

    @property
    def verifier(self):
        """What evaluation judges by."""
        return self.metric or self.reward

    @model_validator(mode="after")
    def system_is_of_chats(self):
        if self.system is not None and self.prompt == "raw":
            raise ValueError("system is a message of a chat, and `prompt: raw` sends none: take one of the two out")
        return self

    @model_validator(mode="after")
    def can_be_judged(self):
        if self.verifier is None:
            raise ValueError("no way to judge an answer: give `reward` (exact, math, choice, ...) or `metric`")
        if self.verifier.kind not in MEASURE_CORRECTNESS and self.metric is None:
            raise ValueError(
                f"the reward {self.verifier.kind} is not a measure of correctness: give `metric` too "
                f"({', '.join(MEASURE_CORRECTNESS)}, or a function as `metric` whose value is in [0, 1])"
            )
        return self


class Task(Judged):
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def can_vote(self):
        judge = self.reward or self.metric
        if judge.kind not in READ_ANSWERS and any(stage.ttrl is not None for stage in self.stages):
            raise ValueError(
                f"ttrl votes on the answers that the task's reward reads, and {judge.kind} reads none: give `reward` as one "
                f"of {', '.join(READ_ANSWERS)} (and `metric` for what evaluation judges by)"
            )
        return self


class Sampled(Strict):
    """Sampled answers besides the greedy one: pass@k by the unbiased estimator (2107.03374)."""

    k: tuple[Annotated[int, Field(gt=0)], ...] = Field(min_length=1)
    samples: int = Field(gt=0)
    temperature: Temperature = 1.0

    @model_validator(mode="after")
    def enough(self):
        if max(self.k) > self.samples:
            raise ValueError(f"pass@{max(self.k)} needs at least {max(self.k)} samples, not {self.samples}")
        return self


class Gate(Strict):
    """A limit that decides whether to ship. `rule: interval` asks it of the whole 95 % interval."""

    limit: float = Field(ge=-1, le=1, description="of a difference of accuracies, or of an accuracy")
    rule: Literal["point", "interval"] = "point"

    @model_validator(mode="before")
    @classmethod
    def from_number(cls, value: Any) -> Any:
        return {"limit": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


GateName = Literal["forgetting", "held_out_drop", "learning_accuracy"]


class Evaluation(Strict):
    suites: tuple[str, ...] = ()
    max_completion_length: int = Field(
        256, gt=0, description="tokens of an evaluated answer, where its task says nothing"
    )
    sampled: Sampled | None = None
    gates: dict[GateName, Gate] = Field({}, description="limits that decide whether to ship")


class Alarms(Strict):
    """What a stage that samples its own answers warns of on the screen (`cpt.stages.alarms`); null: never."""

    entropy: float | None = Field(0.1, gt=0, lt=1, description="warn where it falls to this part of the stage's first")
    groups_without_signal: float | None = Field(
        0.9,
        gt=0,
        le=1,
        description="warn where this share of groups (of prompts) has answers of one reward (none right)",
    )
    kl: float | None = Field(
        1.5, gt=0, description="warn from this KL from the reference or the stage's start (nats a token)"
    )
    learnt: float = Field(0.9, description="no warning of entropy and groups from this mean reward on: all is learnt")


class Recipe(Strict):
    name: Name
    description: str = ""
    seed: int = Field(0, ge=0, description="of the training; rows and evaluation do not depend on it")
    model: Model
    adapter: Adapter | None = None
    data: DataSettings = DataSettings()
    rollouts: Rollouts = TransformersRollouts()
    stream: tuple[Task, ...] = Field(min_length=1)
    strategies: tuple[Strategy, ...] = ()
    evaluation: Evaluation = Evaluation()
    alarms: Alarms = Alarms()


class SuiteTask(Judged):
    """A task of a suite: its evaluation rows are asked, and nothing is trained on it."""

    stages: ClassVar[tuple[Stage, ...]] = ()


class Suite(Strict):
    name: Name
    description: str = ""
    tasks: tuple[SuiteTask, ...] = Field(min_length=1)


def dump(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data; loading that gives an equal recipe."""
    return recipe.model_dump(mode="json")


def identity(recipe: Recipe) -> str:
    """Six digits of what the run is: gates, alarms and the description do not count."""
    plain = dump(recipe)
    plain.pop("description")
    plain.pop("alarms")
    plain["evaluation"].pop("gates")
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:6]
