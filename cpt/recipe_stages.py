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


class Filter(Strict):
    """Rollout-based instance filtering (RIF-RFT, 2507.05386): what gives no learning signal is not trained on."""

    drop: Literal["all-wrong", "zero-variance"] = Field(
        "all-wrong", description="prompts with no right answer, or alike"
    )
    samples: int = Field(8, ge=2, description="answers drawn for each prompt")
    prompts: int | None = Field(
        None, gt=0, description="prompts looked at, the others are left out; all where left out"
    )
    temperature: float = Field(1.0, gt=0)


class Overlong(Strict):
    """Soft overlong punishment (DAPO, 2503.14476): added to the reward of training alone."""

    buffer: int = Field(gt=0, description="tokens before max_completion_length over which the penalty grows to 1")


class DynamicSampling(Strict):
    """Groups whose rewards are all alike give way to groups of other prompts (DAPO, 2503.14476)."""

    rounds: int = Field(3, gt=0, description="how often new groups are generated at most")


class Rlvr(Strict):
    """Reinforcement learning from verifiable rewards; `args` are words of TRL's GRPOConfig."""

    kind: Literal["rlvr"]
    args: dict[str, Any] = {}
    reference: Literal["stage-start", "base", "previous-task", "none"] = "stage-start"
    filter: Filter | None = None
    overlong: Overlong | None = None
    dynamic_sampling: DynamicSampling | None = None


STAGE_MODELS = (Sft, Dpo, Rlvr)
Stage = Annotated[Union[STAGE_MODELS], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)
