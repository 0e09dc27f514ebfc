"""The recipe: strict and frozen. The description of a key is beside it; `loading.py` makes a recipe from a file. A
`Recipe` is complete: every stage has the `args` that it will run with.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cpt.recipe.base import Bounded, Name, Strict
from cpt.recipe.evaluation import Alarms, Evaluation
from cpt.recipe.rewards import MEASURE_CORRECTNESS, READ_ANSWERS, Likelihood, Metric, Reward
from cpt.recipe.sources import Source
from cpt.recipe.stages import Stage
from cpt.recipe.strategies import Strategy

# pydantic's models have a deprecated method of that name, which nobody here calls.
warnings.filterwarnings("ignore", message='Field name "copy" in "Model" shadows')


class Model(Strict):
    path: str = Field(
        description="The model is `tiny` (the built-in toy model), a model folder, or a hub id (owner/name)."
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="With `path: tiny`, 0 is the toy model that comes with cpt; any other seed trains another one on "
        "this machine.",
    )
    revision: str | None = Field(
        None, description="This branch, tag or commit of the hub's repository is used; if null, its default branch."
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32",
        description="The trained weights have this dtype (`float32` is TRL's default); `auto` is the dtype that the "
        "model is stored in.",
    )
    attn_implementation: str | None = Field(
        None,
        description="This is passed unchanged to transformers: sdpa, flash_attention_2, and so on; if null, "
        "transformers chooses.",
    )
    trust_remote_code: bool = Field(
        False,
        description="If true, Python code in the model's repository may run; leave it false for models that you do "
        "not trust.",
    )
    copy: bool = Field(
        True,
        description="If true, the run keeps a copy of the weights; if false, it keeps links to them and compares "
        "their hashes at each start.",
    )
    chat_template: Path | None = Field(
        None, description="This Jinja file is used instead of the tokenizer's own chat template."
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="These options are passed to the chat template in training and evaluation alike."
    )


class Adapter(BaseModel):
    """A PEFT adapter is trained instead of all weights: `kind` (lora, ia3, ...) and any field of that PEFT config."""

    model_config = ConfigDict(frozen=True, extra="allow")
    kind: str = Field(
        description="This is the type of PEFT adapter, such as lora or ia3; every other key is a field of its config."
    )


class DataSettings(Strict):
    seed: int = Field(
        0, ge=0, description="Rows are drawn, split and generated with this seed; the training seed never changes them."
    )
    contamination: Literal["stop", "drop", "report"] | None = Field(
        None,
        description="Training rows that hold a question of an evaluation (of any task or suite) stop the run (`stop`), are "
        "left out (`drop`), or are listed (`report`); if null, rows with the same prompt stop it, and others are listed.",
    )
    ngram: int = Field(
        13, ge=8, le=100, description="Texts are compared by runs of this many words; shorter questions are one run."
    )
    ngram_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="A row holds a question if runs that both have cover at least this share of the question's words.",
    )


class TransformersRollouts(Strict):
    """The policy itself generates the answers with transformers, which needs nothing else and is slow."""

    engine: Literal["transformers"] = "transformers"
    batch_size: int = Field(256, gt=0, description="At most this many prompts are continued in one batch.")
    batch_tokens: int = Field(
        16_384,
        gt=0,
        description="At most this many tokens are held by one batch, with padding and answers of full length counted.",
    )


class Vllm(Bounded):
    """What both ways to vLLM share: any other key is one of vLLM's engine arguments, passed unchanged."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class VllmRollouts(Vllm):
    """An engine of vLLM runs in each training process, or in `tensor_parallel_size` of them, for the whole run."""

    engine: Literal["vllm"]
    sleep: Literal[0, 1, 2] | None = Field(
        None,
        description="On a GPU, vLLM sleeps at this level while the policy trains: 2 discards its weights, 1 keeps "
        "them in CPU memory, 0 never sleeps; if null, it is 2 (1 with an adapter).",
    )


class ServerRollouts(Vllm):
    """Answers come from `vllm serve`: from the servers at `url` or, without a url, from one that the run starts and ends."""

    engine: Literal["server"]
    url: str | tuple[str, ...] | None = Field(
        None,
        description="These servers are already running, at http://HOST:PORT or unix:/PATH, and requests are spread "
        "over them; if null, the run starts one.",
    )
    transfer: Literal["auto", "directory", "gloo", "nccl", "ipc"] = Field(
        "auto",
        description="Weights reach the server in this way; `auto` chooses by the hardware, and uses what a server at "
        "`url` was started with.",
    )
    directory: Path | None = Field(
        None,
        description="With `transfer: directory`, weights are written to this folder, which the servers must be able "
        "to read; if null, it is in the run directory.",
    )
    devices: str | None = Field(
        None, description="The server that the run starts has this value of CUDA_VISIBLE_DEVICES."
    )
    port: int | None = Field(
        None,
        gt=0,
        lt=65536,
        description="The server that the run starts listens at this port of 127.0.0.1; if null, it listens at a Unix "
        "socket.",
    )
    start_timeout: float = Field(600.0, gt=0, description="The server must be ready after this many seconds.")
    patience: float = Field(
        120.0,
        gt=0,
        description="A server that makes no progress for this many seconds counts as hung and is restarted.",
    )


Rollouts = Annotated[TransformersRollouts | VllmRollouts | ServerRollouts, Field(discriminator="engine")]


class Scored(Strict):
    """What a task of the stream and a task of a suite share: where rows come from and how answers are scored."""

    task: Name = Field(description="This is the task's name: letters, digits, dots, hyphens and underscores.")
    data: Source = Field(description="The task's rows come from this source.")
    reward: Reward | None = Field(
        None, description="This verifier scores answers in training, and in evaluation if `metric` is not given."
    )
    metric: Metric | None = Field(
        None,
        description="This verifier decides in evaluation how correct an answer is, from 0 to 1; `likelihood` measures the "
        "row's demonstration instead; if null, `reward` decides.",
    )
    max_completion_length: int | None = Field(
        None,
        gt=0,
        description="An evaluated answer may have this many tokens; if null, `evaluation.max_completion_length` "
        "decides.",
    )
    stop: tuple[str, ...] = Field(
        (), description="These tokens end an answer, as does the model's own end of sequence."
    )
    prompt: Literal["chat", "raw"] | None = Field(
        None,
        description="A prompt that is a string is sent as a user message through the chat template (`chat`) or as it "
        "is (`raw`). If null, it is sent as a chat if the model stops where its chat template ends an "
        "answer.",
    )
    system: str | None = Field(
        None, min_length=1, description="This system message is put before every chat that has none of its own."
    )
    special_tokens: Literal["strip", "keep"] = Field(
        "strip",
        description="Verifiers are given answers without the tokenizer's special tokens (`strip`) or with them "
        "(`keep`).",
    )
    overlong: Literal["refuse", "drop", "truncate"] = Field(
        "refuse",
        description="Rows that are too long stop the run (`refuse`), are left out (`drop`), or have the text that is "
        "trained on cut (`truncate`).",
    )

    @property
    def by_likelihood(self) -> bool:
        """Whether evaluation measures how likely the rows' demonstrations are, and asks for no answers."""
        return isinstance(self.metric, Likelihood)

    @property
    def verifier(self):
        """The verifier that evaluation uses; None where it asks for no answers."""
        return None if self.by_likelihood else self.metric or self.reward

    @model_validator(mode="after")
    def system_is_of_chats(self):
        if self.system is not None and self.prompt == "raw":
            raise ValueError("`system` is a message of a chat, and `prompt: raw` sends no chats: remove one of the two")
        return self

    @model_validator(mode="after")
    def can_be_scored(self):
        if self.by_likelihood:
            return self
        if self.verifier is None:
            raise ValueError(
                "has no verifier to score answers with: add `reward` (exact, math, choice, ...) or `metric` (`likelihood` "
                "needs demonstrations alone)"
            )
        if self.verifier.kind not in MEASURE_CORRECTNESS and self.metric is None:
            raise ValueError(
                f"the reward {self.verifier.kind} does not measure correctness: add `metric` too "
                f"({', '.join(MEASURE_CORRECTNESS)}, or a function whose value is in [0, 1])"
            )
        return self


class Task(Scored):
    stages: tuple[Stage, ...] = Field(
        min_length=1, description="The task is trained by these stages, one after the other."
    )

    @model_validator(mode="after")
    def can_be_rewarded(self):
        judged = next((stage.kind for stage in self.stages if stage.needs_reward), None)
        if judged is not None and self.reward is None and self.by_likelihood:
            raise ValueError(
                f"has no verifier for its {judged} stage: add `reward` (exact, math, choice, ...), which may stand beside "
                "`metric: likelihood`"
            )
        return self

    @model_validator(mode="after")
    def can_vote(self):
        reward = self.reward or self.metric
        if reward.kind not in READ_ANSWERS and any(stage.ttrl is not None for stage in self.stages):
            raise ValueError(
                f"ttrl votes on the answers that the task's reward reads, and {reward.kind} reads none: let `reward` be one "
                f"of {', '.join(READ_ANSWERS)} (and `metric` the verifier of the evaluation)"
            )
        return self


Baseline = Literal["frozen", "joint", "naive", "experts"]


class Recipe(Strict):
    name: Name = Field(
        description="This is the recipe's name; the run directory is runs/NAME-sSEED unless `--out` names another."
    )
    description: str = Field("", description="This text describes the recipe; it changes nothing in the run.")
    seed: int = Field(0, ge=0, description="Training uses this seed; rows and evaluation do not depend on it.")
    model: Model = Field(description="The stream starts from this model.")
    adapter: Adapter | None = Field(
        None, description="This PEFT adapter is trained instead of all weights; if null, all weights are trained."
    )
    data: DataSettings = Field(DataSettings(), description="These settings hold for the rows of all tasks.")
    rollouts: Rollouts = Field(
        TransformersRollouts(), description="This engine generates the answers of training and of evaluation."
    )
    stream: tuple[Task, ...] = Field(
        min_length=1, description="These are the tasks, in the order in which the model is trained on them."
    )
    strategies: tuple[Strategy, ...] = Field(
        (), description="These strategies against forgetting act on every stage, in the order of the list."
    )
    evaluation: Evaluation = Field(
        Evaluation(), description="These settings decide what is evaluated, and which gates judge the run."
    )
    baselines: tuple[Baseline, ...] | None = Field(
        None,
        description="These baselines are run too, at equal compute: `frozen` is the untouched model, `joint` trains one "
        "model on all tasks together, `naive` leaves out the strategies, and `experts` trains each task alone.",
    )

    @field_validator("baselines")
    @classmethod
    def baselines_are_different(cls, value: tuple[Baseline, ...] | None):
        for place, name in enumerate(value or ()):
            if name in value[:place]:
                raise ValueError(f"{name} stands there twice: remove one")
        return value

    tracking: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = Field(
        (), description="The run is shown by these trackers while it lasts, as one run of theirs for the whole stream."
    )
    tracking_project: str = Field(
        "cpt", min_length=1, description="The run has this project in the trackers, and in MLflow this experiment."
    )
    alarms: Alarms = Field(Alarms(), description="These thresholds decide when a stage warns of a collapse.")


class SuiteTask(Scored):
    """A task of a suite: its evaluation rows are answered, and nothing is trained on it."""

    stages: ClassVar[tuple[Stage, ...]] = ()


class Suite(Strict):
    name: Name = Field(description="This is the suite's name, under which its scores are reported.")
    description: str = Field("", description="This text describes the suite; it changes nothing.")
    tasks: tuple[SuiteTask, ...] = Field(min_length=1, description="The suite asks the evaluation rows of these tasks.")

    @model_validator(mode="after")
    def has_a_mean(self):
        measured = [task.task for task in self.tasks if task.by_likelihood]
        if measured and len(measured) < len(self.tasks):
            raise ValueError(
                f"the score of {measured[0]} is a likelihood and that of others is not, so they have no common mean: put "
                "them into two suites"
            )
        return self


def dump(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data; loading that gives an equal recipe."""
    return recipe.model_dump(mode="json")


def identity(recipe: Recipe) -> str:
    """Six digits of what the run is: gates, metrics, alarms, baselines and the description do not count."""
    plain = dump(recipe)
    plain.pop("description")
    for name in ("alarms", "tracking", "tracking_project"):
        plain.pop(name)
    plain.pop("baselines")
    plain["evaluation"].pop("gates")
    plain["evaluation"].pop("metrics")
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:6]
