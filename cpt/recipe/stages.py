"""The stages of a recipe: what may stand under `stages`, besides the `args` that go to TRL."""

import re
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

MOST = 10**9  # of any number but a seed


class Bounded(BaseModel):
    """No number is larger than any use of it."""

    @field_validator("*")
    @classmethod
    def of_a_size(cls, value: Any, info: ValidationInfo) -> Any:
        for each in value if isinstance(value, tuple) else [value]:
            if isinstance(each, int | float) and info.field_name != "seed" and not -MOST <= each <= MOST:
                raise ValueError(
                    f"({each}) must be at most {MOST:,}" if each > 0 else f"({each}) must be at least {-MOST:,}"
                )
        return value


class Strict(Bounded):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Temperature = Annotated[float, Field(ge=0.01, le=100)]


class Sft(Strict):
    """Supervised fine-tuning; `args` accepts fields of TRL's SFTConfig."""

    kind: Literal["sft"]
    args: dict[str, Any] = {}


class Pairs(Strict):
    """Preference pairs sampled from the present model, for rows that have a verifier and no chosen and rejected."""

    prompts: int = Field(512, gt=0)
    samples: int = Field(8, ge=2, description="answers drawn for each prompt")
    temperature: Temperature = 1.0
    per_prompt: int = Field(1, gt=0, description="pairs kept for each prompt at most")


class Dpo(Strict):
    """Direct preference optimisation; `args` accepts fields of TRL's DPOConfig."""

    kind: Literal["dpo"]
    args: dict[str, Any] = {}
    reference: Literal["stage-start", "base"] = "stage-start"
    pairs: Pairs = Pairs()

    @model_validator(mode="after")
    def _fits(self):
        if self.reference == "base" and self.args.get("precompute_ref_log_probs"):
            raise ValueError(
                "args.precompute_ref_log_probs measures from the policy as the stage begins, and `reference: base` names "
                "another: take one of the two out"
            )
        return self


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


class Rlvr(Strict):
    """Reinforcement learning from verifiable rewards; `args` accepts fields of TRL's GRPOConfig."""

    kind: Literal["rlvr"]
    args: dict[str, Any] = {}
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


class Hybrid(Strict):
    """Demonstrations and rollouts in one step (2509.04419); `args` accepts fields of TRL's GRPOConfig."""

    kind: Literal["hybrid"]
    method: Literal["hpt", "luffy", "srft", "relift", "chord", "chord-phi"]
    args: dict[str, Any] = {}
    reference: Literal["stage-start", "base"] = "stage-start"
    correct_at: float = Field(1.0, description="a rollout is right where its reward is at least this")
    long_demonstrations: Literal["refuse", "keep"] = Field(
        "refuse", description="those of more tokens than max_completion_length: stop, or train on them whole"
    )
    gamma: int = Field(0, ge=0, description="hpt: up to so many right rollouts, a prompt is taught by demonstration")
    gate: Literal["hard", "soft"] = Field("hard", description="hpt: either branch, or both by the share that is right")
    alpha: float = Field(1.0, ge=0, description="hpt: weight of the RL loss")
    beta: float = Field(1.0, ge=0, description="hpt: weight of the SFT loss (the KL's beta is in `args`)")
    mixing: Literal["branch", "question"] = Field(
        "branch",
        description="hpt: each branch is a mean over its own rows, or each question has both losses and all weigh alike "
        "(Algorithm 1)",
    )
    clip: bool | None = Field(
        None,
        description="clip the ratio of rollouts to the policy that sampled them (`epsilon` in `args`); left out: chord and "
        "chord-phi do, hpt, luffy and relift do not, as in their authors' scripts",
    )
    rl: Literal["dr-grpo", "grpo"] = Field(
        "dr-grpo",
        description="relift: advantage without deviation over a constant length (the authors' script), or with it over "
        "each answer's length, clipped",
    )
    buffer: int = Field(128, gt=0, description="relift: unsolved prompts that make a SFT step (the authors' script)")
    recheck: bool = Field(
        False, description="relift: ask them once more before the step, and leave out those that are solved by now"
    )
    sft_learning_rate: float = Field(1e-6, gt=0, le=100, description="relift: of the SFT steps (the authors' script)")
    sft_weight_decay: float = Field(0.01, ge=0, description="relift: of the SFT steps (the authors' fsdp_worker.py)")
    sft_max_grad_norm: float = Field(
        1.0, ge=0, description="relift: clip of the SFT steps' gradient, 0: none (the authors' relift_trainer.yaml)"
    )
    mu_peak: float | None = Field(None, ge=0, le=1, description="chord: highest share of SFT; 0.9 (chord-phi: 0.1)")
    mu_valley: float | None = Field(None, ge=0, le=1, description="chord: lowest share of SFT; 0.05 (chord-phi: 0.1)")
    mu_warmup: int = Field(0, ge=0, description="chord: steps to the highest")
    mu_decay: int = Field(200, ge=0, description="chord: steps from the highest to the lowest")

    @model_validator(mode="after")
    def fits_the_method(self):
        for name, methods in OPTIONS_OF.items():
            if self.method not in methods and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is an option of {' and '.join(methods)}, not of {self.method}: take it out")
        group = self.args.get("num_generations", 8)
        if isinstance(group, int) and self.gamma >= group:
            raise ValueError(f"gamma ({self.gamma}) counts right rollouts: it must be below num_generations ({group})")
        if self.method == "srft" and self.args.get("max_grad_norm", 1.0) == 0:
            raise ValueError("srft pushes wrong answers down without a bound: args.max_grad_norm must be above 0")
        for name in ("epsilon", "epsilon_high"):
            if name in self.args and not self.clips:
                remedy = "take it out" if self.method == "srft" else "say `clip: true` beside `args`, or take it out"
                raise ValueError(f"args.{name} is of a clip, and {self.method} has none: {remedy}")
        return self

    @property
    def clips(self) -> bool:
        """Whether the ratio of rollouts is clipped."""
        if self.clip is not None:
            return self.clip
        return self.method in ("chord", "chord-phi") or self.rl == "grpo"


OPTIONS_OF = {
    **dict.fromkeys(("gamma", "gate", "alpha", "beta", "mixing"), ("hpt",)),
    **dict.fromkeys(
        ("rl", "buffer", "recheck", "sft_learning_rate", "sft_weight_decay", "sft_max_grad_norm"), ("relift",)
    ),
    "clip": ("hpt", "luffy", "relift", "chord", "chord-phi"),
    **dict.fromkeys(("mu_peak", "mu_valley", "mu_warmup", "mu_decay"), ("chord", "chord-phi")),
}


class Samples(Strict):
    """Answers sampled from the present model, of which the verified are trained on."""

    prompts: int = Field(512, gt=0, description="prompts sampled in each round")
    samples: int = Field(8, gt=0, description="answers drawn for each prompt")
    temperature: Temperature = 1.0
    per_prompt: int = Field(4, gt=0, description="different right answers kept for each prompt at most")


class Rejection(Strict):
    """Rejection-sampling fine-tuning: sample, keep what is verified, SFT on it; `args` accepts fields of TRL's SFTConfig."""

    kind: Literal["rejection"]
    args: dict[str, Any] = {}
    rounds: int = Field(1, gt=0, description="each samples from the model as the round before left it")
    start: Literal["present", "stage-start"] = Field(
        "present", description="the weights that each round's training starts from"
    )
    none_right: Literal["stop", "skip"] = Field(
        "stop", description="a round without a right answer: stop the run, or leave the model as it is, with a warning"
    )
    samples: Samples = Samples()


class Divergence(Strict):
    """What a student is taught a teacher's next-token distribution by, on the student's own answers.

    `forward` is KL(teacher || student), `reverse` KL(student || teacher), `jsd` the generalised Jensen-Shannon divergence
    of GKD (2306.13649): both are measured from a mixture, of which the teacher's share is `alpha`.
    """

    direction: Literal["forward", "reverse", "jsd"]
    alpha: float = Field(0.5, gt=0, lt=1, description="jsd: the teacher's share of the mixture, and its KL's weight")

    @model_validator(mode="after")
    def alpha_is_of_the_mixture(self):
        if self.direction != "jsd" and self.alpha != 0.5:
            raise ValueError(f"alpha is an option of jsd, not of {self.direction}: take it out")
        return self

    @property
    def interpolation(self) -> float:
        """TRL's one number for all three: 0 is forward, 1 reverse."""
        return {"forward": 0.0, "reverse": 1.0, "jsd": self.alpha}[self.direction]


class SelfDistillation(Divergence):
    """SDFT (2601.19897): the teacher is the model's own average with the demonstration in its context.

    `args` accepts fields of TRL's SDFTConfig.
    """

    kind: Literal["self-distillation"]
    args: dict[str, Any] = {}
    direction: Literal["forward", "reverse", "jsd"] = Field(
        "forward", description="of the KL; forward made all results of the paper (its authors), whose text says reverse"
    )
    top_k: int | None = Field(
        None, gt=0, description="only the student's likeliest tokens; the whole vocabulary where left out (the paper)"
    )
    tail: bool = Field(False, description="top_k: all other tokens count as one more, instead of not at all")
    ema_rate: float = Field(0.05, ge=0, le=1, description="the student's share of each update of the teacher (TRL)")
    sync_every: int = Field(1, gt=0, description="steps between two updates of the teacher")
    template: str = Field(
        "{prompt}\n\nThis is an example for a response to the question:\n{demonstration}\n\n"
        "Now answer with a response of your own, including the thinking process.",
        description="what the teacher is asked; of a chat, instead of its last message (the authors' code)",
    )

    @model_validator(mode="after")
    def can_be_asked(self):
        if self.tail and self.top_k is None:
            raise ValueError("tail is what top_k leaves out: give top_k, or take tail out")
        if self.sync_every > 1 and self.ema_rate == 0:
            raise ValueError("ema_rate 0 keeps the teacher as it came to the stage: take sync_every out")
        named = re.findall(r"\{(\w*)\}", self.template)
        strange = sorted(set(named) - {"prompt", "demonstration"})
        if strange:
            raise ValueError(f"template knows {{prompt}} and {{demonstration}}, not {{{strange[0]}}}")
        if "demonstration" not in named:
            raise ValueError(
                "template has no {demonstration}: the teacher would know nothing that the student does not"
            )
        return self


class Distill(Divergence):
    """On-policy distillation from a teacher (GKD, 2306.13649); `args` accepts fields of TRL's DistillationConfig."""

    kind: Literal["distill"]
    args: dict[str, Any] = {}
    teacher: str = Field(description="a model folder, a hub id (owner/name), or `base`: the model before the stream")
    teacher_revision: str | None = Field(None, description="of the teacher's repository on the hub")
    teacher_dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = Field(
        None, description="of the teacher's weights; model.dtype where left out"
    )
    direction: Literal["forward", "reverse", "jsd"] = Field("reverse", description="of the KL (TRL's default)")

    @model_validator(mode="after")
    def base_is_here(self):
        if self.teacher == "base" and self.teacher_revision is not None:
            raise ValueError("teacher_revision is of a repository on the hub, not of base: take it out")
        return self


STAGE_MODELS = (Sft, Dpo, Rlvr, Hybrid, Rejection, SelfDistillation, Distill)
Stage = Annotated[Union[STAGE_MODELS], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)
