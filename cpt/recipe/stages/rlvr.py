"""Reinforcement learning from verifiable rewards, and what it can have besides."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from cpt.recipe.base import Strict, Temperature
from cpt.recipe.stages.base import StageSpec
from cpt.recipe.trl_bounds import weights_problem


class Filter(Strict):
    """Rollout-based instance filtering (RIF-RFT, 2507.05386): what gives no learning signal is not trained on."""

    drop: Literal["all-wrong", "zero-variance"] = Field(
        "all-wrong", description="prompts with no right answer, or alike"
    )
    samples: int = Field(8, ge=2, description="answers drawn for each prompt")
    prompts: int | None = Field(
        None, gt=0, description="prompts looked at, the others are left out; all where left out"
    )
    temperature: Temperature = 1.0


class Overlong(Strict):
    """Soft overlong punishment (DAPO, 2503.14476): added to the reward of training alone."""

    buffer: int = Field(gt=0, description="tokens before max_completion_length over which the penalty grows to 1")


class DynamicSampling(Strict):
    """Groups whose rewards are all alike give way to groups of other prompts (DAPO, 2503.14476)."""

    rounds: int = Field(3, gt=0, description="how often new groups are generated at most")


class SnrStep(Strict):
    """The learning rate of each step times SNR / (1 + SNR) of its gradient, within bounds (OBLR-PO, 2511.23310)."""

    min: float = Field(0.1, ge=0, le=1, description="the least that a step's learning rate is multiplied by")
    max: float = Field(1.0, gt=0, le=1, description="the most")

    @model_validator(mode="after")
    def in_order(self):
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must be at most max ({self.max})")
        return self


class Ttrl(Strict):
    """The reward of training is agreement with the group's majority; no row's answer is read (2504.16084)."""

    alarm: float = Field(
        0.8,
        gt=0,
        le=1,
        description="warn where the majorities are near unanimous and this share of prompts has one answer",
    )


class Rlvr(StageSpec):
    """Reinforcement learning from verifiable rewards; `args` accepts fields of TRL's GRPOConfig."""

    trl_config = "GRPOConfig"
    row_form = "prompt"
    uses_engine = True
    takes_rollout_policy = True
    needs_reward = True
    unit = "completions"
    smallest_group = 2
    # No KL, T 1: 2507.05386 (GRPO without KL forgets as little), 2503.20783.
    defaults: ClassVar = {"beta": 0.0, "temperature": 1.0}

    kind: Literal["rlvr"]
    args: dict[str, Any] = Field({})
    reference: Literal["stage-start", "base", "previous-task", "none"] = "stage-start"
    filter: Filter | None = None
    overlong: Overlong | None = None
    dynamic_sampling: DynamicSampling | None = None
    advantage: Literal["leave-one-out", "length-weighted", "gradient-weighted"] | None = Field(
        None, description="the baseline: RLOO's, OPO's, OBLR-PO's; TRL's (`scale_rewards` in `args`) where left out"
    )
    snr_step: SnrStep | None = None
    ttrl: Ttrl | None = None

    @model_validator(mode="after")
    def has_its_answers(self):
        if self.ttrl is not None and self.filter is not None:
            raise ValueError(
                "filter judges by the rows' answers, and ttrl trains without them: take one of the two out"
            )
        return self

    @property
    def measures_kl(self) -> bool:
        return bool(self.value("beta"))

    @property
    def chooses_rows(self) -> bool:
        return self.filter is not None

    def problems(self) -> Iterator[tuple[tuple[str, ...], str]]:
        rewards = 1 + (self.overlong is not None)
        if wrong := weights_problem(self.args.get("reward_weights"), "rewards", rewards):
            yield ("args", "reward_weights"), wrong
        beta, limit = self.value("beta"), self.value("max_completion_length")
        if self.reference == "none" and beta:
            yield (
                ("args", "beta"),
                f"({beta}) weighs a KL, and `reference: none` says that there is none: take beta out, or name a reference",
            )
        if self.overlong is not None and isinstance(limit, int) and self.overlong.buffer > limit:
            message = f"({self.overlong.buffer}) must be at most max_completion_length ({limit}), which is in `args`"
            yield ("overlong", "buffer"), message
        batch, group = self.value("per_device_train_batch_size"), self.value("num_generations")
        whole = not isinstance(batch, int) or not isinstance(group, int) or group <= 0 or batch % group == 0
        if self.snr_step is not None and not whole:
            message = f"({batch}) must be a multiple of num_generations ({group}) with snr_step"
            yield ("args", "per_device_train_batch_size"), f"{message}: its gradient samples are of whole groups"
        if self.advantage is not None:
            for name, only in (("scale_rewards", "none"), ("multi_objective_aggregation", "sum_then_normalize")):
                if self.args.get(name, only) != only:
                    message = (
                        f"({self.args[name]}) is TRL's advantage, and `advantage: {self.advantage}` takes its place"
                    )
                    yield ("args", name), f"{message}: say {only}, or take one of the two out"

    def whole_weights(self) -> Iterator[tuple[str, str]]:
        if self.snr_step is not None:
            yield "snr_step", "needs whole gradients"

    def details(self) -> list[str]:
        words = []
        if self.ttrl is not None:
            words.append(f"reward is agreement with the majority of {self.group} (the rows' answers are not read)")
        if self.filter is not None:
            prompts = self.filter.prompts or "all"
            words.append(
                f"filter drops {self.filter.drop} ({self.filter.samples} answers to {prompts} prompts before it)"
            )
        if self.overlong is not None:
            words.append(f"overlong penalty over the last {self.overlong.buffer} tokens")
        if self.dynamic_sampling is not None:
            words.append(f"up to {self.dynamic_sampling.rounds} more generations for groups without signal")
        if self.advantage is not None:
            words.append(f"{self.advantage} baseline")
        if self.snr_step is not None:
            words.append(
                f"each step's lr times {self.snr_step.min:g} to {self.snr_step.max:g} by its signal-to-noise ratio"
            )
        return words
