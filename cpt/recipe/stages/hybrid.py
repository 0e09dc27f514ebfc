"""Demonstrations and rollouts in one step."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from cpt.recipe.stages.base import StageSpec
from cpt.recipe.trl_bounds import weights_problem

METHOD_DECIDES = "the method decides the loss: remove it, or use an rlvr stage"
REFUSED = dict.fromkeys(
    (
        *("loss_type", "scale_rewards", "importance_sampling_level", "multi_objective_aggregation", "delta"),
        *("off_policy_mask_threshold", "top_entropy_quantile", "use_bias_correction_kl"),
        *("sapo_temperature_pos", "sapo_temperature_neg"),
        *("vespo_k_pos", "vespo_k_neg", "vespo_lambda_pos", "vespo_lambda_neg"),
    ),
    METHOD_DECIDES,
) | dict.fromkeys(
    ("use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
    "a hybrid stage has a constant `entropy_coef`: remove it",
)


class Hybrid(StageSpec):
    """Each step learns from demonstrations and rollouts (2509.04419); `args` accepts fields of TRL's GRPOConfig."""

    implementation = "cpt.stages.hybrid.trainer"
    trl_config = "GRPOConfig"
    row_form = "prompt"
    teaches = True
    uses_engine = True
    takes_rollout_policy = True
    needs_reward = True
    unit = "completions"
    smallest_group = 2
    defaults: ClassVar = {"beta": 0.0, "temperature": 1.0}  # 2509.04419
    refused: ClassVar = REFUSED

    kind: Literal["hybrid"]
    method: Literal["hpt", "luffy", "srft", "relift", "chord", "chord-phi"] = Field(
        description="The method decides how rollouts and demonstrations are combined into one loss; docs/recipe.md "
        "compares them."
    )
    args: dict[str, Any] = Field(
        {},
        description="These are fields of TRL's `GRPOConfig`, passed unchanged; they override `defaults.hybrid.args`.",
    )
    reference: Literal["stage-start", "base"] = Field(
        "stage-start",
        description="With `beta` above 0 in `args`, the KL is measured from this model: the model as it entered the "
        "stage, or the untouched base.",
    )
    correct_at: float = Field(1.0, description="A rollout counts as correct if its reward is at least this.")
    long_demonstrations: Literal["refuse", "keep"] = Field(
        "refuse",
        description="If a demonstration has more tokens than `max_completion_length`, `refuse` stops the run and "
        "`keep` trains on all of it.",
    )
    gamma: int = Field(
        0,
        ge=0,
        description="`hpt` teaches a prompt by its demonstration if at most this many of its rollouts are correct, "
        "and by RL otherwise.",
    )
    gate: Literal["hard", "soft"] = Field(
        "hard",
        description="`hpt` uses one of the two losses for each prompt with `hard`; with `soft` it uses both, weighted "
        "by the share of correct rollouts.",
    )
    alpha: float = Field(1.0, ge=0, description="`hpt` multiplies the RL loss by this.")
    beta: float = Field(
        1.0, ge=0, description="`hpt` multiplies the SFT loss by this (the weight of the KL is `beta` in `args`)."
    )
    mixing: Literal["branch", "question"] = Field(
        "branch",
        description="`hpt` averages each loss over its own rows with `branch`; with `question` every prompt has the "
        "sum of its two losses and all prompts weigh the same (Algorithm 1 of the paper).",
    )
    clip: bool | None = Field(
        None,
        description="If true, the importance ratio of the rollouts is clipped (`epsilon` in `args`); if null, `chord` "
        "and `chord-phi` clip, and `hpt`, `luffy` and `relift` do not, as in their authors' scripts.",
    )
    rl: Literal["dr-grpo", "grpo"] = Field(
        "dr-grpo",
        description="`relift` uses an advantage without standard deviation and a loss over a constant length with "
        "`dr-grpo` (the authors' script); with `grpo` it uses the standard deviation, the mean over each "
        "answer's tokens, and clipping.",
    )
    buffer: int = Field(
        128,
        gt=0,
        description="`relift` takes one SFT step when this many unsolved prompts have been collected (default: the "
        "authors' script).",
    )
    recheck: bool = Field(
        False,
        description="If true, `relift` samples the collected prompts once more before the SFT step and leaves out "
        "those that are solved by now.",
    )
    sft_learning_rate: float = Field(
        1e-6,
        gt=0,
        le=100,
        description="`relift` takes its SFT steps with this learning rate (default: the authors' script).",
    )
    sft_weight_decay: float = Field(
        0.01,
        ge=0,
        description="`relift` takes its SFT steps with this weight decay (default: the authors' fsdp_worker.py).",
    )
    sft_max_grad_norm: float = Field(
        1.0,
        ge=0,
        description="`relift` clips the gradient of its SFT steps to this norm; 0 does not clip (default: the "
        "authors' relift_trainer.yaml).",
    )
    mu_peak: float | None = Field(
        None,
        ge=0,
        le=1,
        description="`chord` gives the SFT loss at most this share of the loss; if null, it is 0.9 (`chord-phi`: 0.1).",
    )
    mu_valley: float | None = Field(
        None,
        ge=0,
        le=1,
        description="`chord` lowers the share of the SFT loss to this; if null, it is 0.05 (`chord-phi`: 0.1).",
    )
    mu_warmup: int = Field(
        0, ge=0, description="`chord` raises the share of the SFT loss to `mu_peak` over this many optimiser steps."
    )
    mu_decay: int = Field(
        200,
        ge=0,
        description="`chord` lowers the share of the SFT loss from `mu_peak` to `mu_valley` over this many optimiser "
        "steps.",
    )

    @model_validator(mode="after")
    def fits_the_method(self):
        for name, methods in OPTIONS_OF.items():
            if self.method not in methods and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is an option of {' and '.join(methods)}, not of {self.method}: remove it")
        group = self.args.get("num_generations", 8)
        if isinstance(group, int) and self.gamma >= group:
            raise ValueError(
                f"gamma ({self.gamma}) counts correct rollouts: it must be below num_generations ({group})"
            )
        if self.method == "srft" and self.args.get("max_grad_norm", 1.0) == 0:
            raise ValueError("srft pushes wrong answers down without a bound: args.max_grad_norm must be above 0")
        for name in ("epsilon", "epsilon_high"):
            if name in self.args and not self.clips:
                remedy = "remove it" if self.method == "srft" else "set `clip: true` beside `args`, or remove it"
                raise ValueError(f"args.{name} belongs to clipping, and {self.method} does not clip: {remedy}")
        return self

    @property
    def clips(self) -> bool:
        """Whether the ratio of rollouts is clipped."""
        if self.clip is not None:
            return self.clip
        return self.method in ("chord", "chord-phi") or self.rl == "grpo"

    @property
    def measures_kl(self) -> bool:
        return bool(self.value("beta"))

    def problems(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if wrong := weights_problem(self.args.get("reward_weights"), "rewards", 1):
            yield ("args", "reward_weights"), wrong

    def whole_weights(self) -> Iterator[tuple[str, str]]:
        if self.method == "relift":
            yield "method", "relift's own optimiser needs whole weights"

    def titles(self) -> list[str]:
        """The method and the options that are set: `hpt (gamma 2, mixing question)`."""
        given = self.model_dump(exclude={"kind", "method", "args"}, exclude_defaults=True)
        options = ", ".join(f"{name} {str(value).lower()}" for name, value in given.items())
        return [f"{self.method} ({options})" if options else self.method]


OPTIONS_OF = {
    **dict.fromkeys(("gamma", "gate", "alpha", "beta", "mixing"), ("hpt",)),
    **dict.fromkeys(
        ("rl", "buffer", "recheck", "sft_learning_rate", "sft_weight_decay", "sft_max_grad_norm"), ("relift",)
    ),
    "clip": ("hpt", "luffy", "relift", "chord", "chord-phi"),
    **dict.fromkeys(("mu_peak", "mu_valley", "mu_warmup", "mu_decay"), ("chord", "chord-phi")),
}
