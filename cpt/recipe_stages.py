"""The stages of a recipe: what may stand under `stages`, besides the `args` that go to TRL."""

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Sft(Strict):
    """Supervised fine-tuning; `args` are words of TRL's SFTConfig."""

    kind: Literal["sft"]
    args: dict[str, Any] = {}


class Pairs(Strict):
    """Preference pairs sampled from the present model, for rows that have a verifier and no chosen and rejected."""

    prompts: int = Field(512, gt=0)
    samples: int = Field(8, ge=2, description="answers drawn for each prompt")
    temperature: float = Field(1.0, gt=0)
    per_prompt: int = Field(1, gt=0, description="pairs kept for each prompt at most")


class Dpo(Strict):
    """Direct preference optimisation; `args` are words of TRL's DPOConfig."""

    kind: Literal["dpo"]
    args: dict[str, Any] = {}
    reference: Literal["stage-start", "base"] = "stage-start"
    pairs: Pairs = Pairs()


class Rlvr(Strict):
    """Reinforcement learning from verifiable rewards; `args` are words of TRL's GRPOConfig."""

    kind: Literal["rlvr"]
    args: dict[str, Any] = {}
    reference: Literal["stage-start", "base"] = "stage-start"


class Samples(Strict):
    """Answers sampled from the present model, of which the verified are trained on."""

    prompts: int = Field(512, gt=0, description="prompts sampled in each round")
    samples: int = Field(8, gt=0, description="answers drawn for each prompt")
    temperature: float = Field(1.0, gt=0)
    per_prompt: int = Field(4, gt=0, description="different right answers kept for each prompt at most")


class Rejection(Strict):
    """Rejection-sampling fine-tuning: sample, keep what is verified, SFT on it; `args` are words of TRL's SFTConfig."""

    kind: Literal["rejection"]
    args: dict[str, Any] = {}
    rounds: int = Field(1, gt=0, description="each samples from the model as the round before left it")
    start: Literal["present", "stage-start"] = Field(
        "present", description="the weights that each round's training starts from"
    )
    samples: Samples = Samples()


STAGE_MODELS = (Sft, Dpo, Rlvr, Rejection)
Stage = Annotated[Union[STAGE_MODELS], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)
