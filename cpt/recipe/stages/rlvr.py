"""Reinforcement learning from verifiable rewards, and its optional extras."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from cpt.recipe.base import Strict, Temperature
from cpt.recipe.stages.base import StageSpec
from cpt.recipe.trl_bounds import weights_problem


class Filter(Strict):
    """Rollout-based instance filtering removes prompts that give no learning signal (RIF-RFT, 2507.05386)."""

    drop: Literal["all-wrong", "zero-variance"] = Field(
        "all-wrong",
        description="`all-wrong` drops prompts without a correct answer; `zero-variance` drops prompts whose answers "
        "all have the same reward.",
    )
    samples: int = Field(8, ge=2, description="This many answers are sampled for each prompt.")
    prompts: int | None = Field(
        None,
        gt=0,
        description="This many prompts are drawn and filtered, and the others are not trained on; if null, all "
        "prompts are filtered.",
    )
    temperature: Temperature = Field(1.0, description="Answers are sampled at this temperature.")


class Overlong(Strict):
    """Soft overlong punishment is added to the reward in training, not in evaluation (DAPO, 2503.14476)."""

    buffer: int = Field(
        gt=0, description="The penalty grows from 0 to 1 over this many tokens before `max_completion_length`."
    )


class DynamicSampling(Strict):
    """Groups whose rewards are all equal are replaced by groups of other prompts (DAPO, 2503.14476)."""

    rounds: int = Field(3, gt=0, description="New groups are generated at most this many times for one generation.")


class SnrStep(Strict):
    """The learning rate of a step is multiplied by SNR / (1 + SNR) of its gradient, within bounds (OBLR-PO, 2511.23310)."""

    min: float = Field(0.1, ge=0, le=1, description="The learning rate of a step is multiplied by at least this.")
    max: float = Field(1.0, gt=0, le=1, description="The learning rate of a step is multiplied by at most this.")

    @model_validator(mode="after")
    def in_order(self):
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) must be at most max ({self.max})")
        return self


class Ttrl(Strict):
    """The reward in training is agreement with the group's majority; the rows' answers are not read (2504.16084)."""

    alarm: float = Field(
        0.8,
        gt=0,
        le=1,
        description="A warning is given if the votes are nearly unanimous and this share of recent prompts has the "
        "same majority answer.",
    )


class Rlvr(StageSpec):
    """Reinforcement learning uses the task's verifiable reward; `args` accepts fields of TRL's GRPOConfig."""

    implementation = "cpt.stages.rlvr"
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
    args: dict[str, Any] = Field(
        {}, description="These are fields of TRL's `GRPOConfig`, passed unchanged; they override `defaults.rlvr.args`."
    )
    reference: Literal["stage-start", "base", "previous-task", "none"] = Field(
        "stage-start",
        description="With `beta` above 0 in `args`, the KL is measured from this model: the model as it entered the "
        "stage, the untouched base, or the model as it entered the task. `none` requires that `beta` is "
        "0.",
    )
    filter: Filter | None = Field(
        None,
        description="Before the stage, prompts that give no learning signal are removed; if null, all prompts are "
        "trained on.",
    )
    overlong: Overlong | None = Field(
        None, description="Answers that come close to the length limit are penalised; if null, they are not."
    )
    dynamic_sampling: DynamicSampling | None = Field(
        None,
        description="Groups whose rewards are all equal are replaced by groups of other prompts; if null, they are "
        "kept.",
    )
    advantage: Literal["leave-one-out", "length-weighted", "gradient-weighted"] | None = Field(
        None,
        description="A reward is compared with this baseline: `leave-one-out` (RLOO), `length-weighted` (OPO) or "
        "`gradient-weighted` (OBLR-PO); if null, TRL's `scale_rewards` in `args` decides.",
    )
    snr_step: SnrStep | None = Field(
        None,
        description="The learning rate of each step is scaled by the signal-to-noise ratio of its gradient; if null, "
        "it is not scaled.",
    )
    ttrl: Ttrl | None = Field(
        None,
        description="Answers are rewarded for agreeing with the majority of their group, and the rows' own answers "
        "are not read; if null, the task's reward is used.",
    )

    @model_validator(mode="after")
    def has_its_answers(self):
        if self.ttrl is not None and self.filter is not None:
            raise ValueError("filter scores by the rows' answers, and ttrl trains without them: remove one of the two")
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
                f"({beta}) weighs a KL, and `reference: none` says that there is none: remove beta, or name a reference",
            )
        if self.overlong is not None and isinstance(limit, int) and self.overlong.buffer > limit:
            message = f"({self.overlong.buffer}) must be at most max_completion_length ({limit}), which is in `args`"
            yield ("overlong", "buffer"), message
        batch, group = self.value("per_device_train_batch_size"), self.value("num_generations")
        is_multiple = not isinstance(batch, int) or not isinstance(group, int) or group <= 0 or batch % group == 0
        if self.snr_step is not None and not is_multiple:
            message = f"({batch}) must be a multiple of num_generations ({group}) with snr_step"
            yield ("args", "per_device_train_batch_size"), f"{message}: its gradient samples are whole groups"
        if self.advantage is not None:
            for name, only in (("scale_rewards", "none"), ("multi_objective_aggregation", "sum_then_normalize")):
                if self.args.get(name, only) != only:
                    message = f"({self.args[name]}) is TRL's advantage, and `advantage: {self.advantage}` replaces it"
                    yield ("args", name), f"{message}: set {only}, or remove one of the two"

    def whole_weights(self) -> Iterator[tuple[str, str]]:
        if self.snr_step is not None:
            yield "snr_step", "needs whole gradients"

    def details(self) -> list[str]:
        details = []
        if self.ttrl is not None:
            details.append(f"reward is agreement with the majority of {self.group} (the rows' answers are not read)")
        if self.filter is not None:
            prompts = self.filter.prompts or "all"
            details.append(
                f"filter drops {self.filter.drop} ({self.filter.samples} answers to {prompts} prompts before it)"
            )
        if self.overlong is not None:
            details.append(f"overlong penalty over the last {self.overlong.buffer} tokens")
        if self.dynamic_sampling is not None:
            details.append(f"up to {self.dynamic_sampling.rounds} more generations for groups without signal")
        if self.advantage is not None:
            details.append(f"{self.advantage} baseline")
        if self.snr_step is not None:
            details.append(
                f"each step's lr times {self.snr_step.min:g} to {self.snr_step.max:g} by its signal-to-noise ratio"
            )
        return details
