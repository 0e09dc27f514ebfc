"""Stages that train on texts: demonstrations, preferences, and answers that were sampled and verified before."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from cpt.recipe.base import Strict, Temperature
from cpt.recipe.stages.base import StageSpec
from cpt.recipe.trl_bounds import weights_problem

OF_TEXTS = {  # what SFT's trainer does to texts: it is given token ids
    "eos_token": "answers end where the model stops: use the task's `stop`, or a model whose tokenizer has that eos_token",
    "dataset_text_field": "rows have prompts and demonstrations, or messages: use `data.columns`",
    "dataset_kwargs": "the run prepares the rows; remove it",
}


class Sft(StageSpec):
    """Supervised fine-tuning trains on demonstrations; `args` accepts fields of TRL's SFTConfig."""

    implementation = "cpt.stages.sft"
    trl_config = "SFTConfig"
    row_form = "demonstration"
    teaches = True
    refused: ClassVar = OF_TEXTS

    kind: Literal["sft"]
    args: dict[str, Any] = Field(
        {}, description="These are fields of TRL's `SFTConfig`, passed unchanged; they override `defaults.sft.args`."
    )


class Pairs(Strict):
    """Preference pairs are sampled from the present model for rows that have no `chosen` and `rejected`."""

    prompts: int = Field(512, gt=0, description="Pairs are sampled for this many prompts.")
    samples: int = Field(8, ge=2, description="This many answers are sampled for each prompt.")
    temperature: Temperature = Field(1.0, description="Answers are sampled at this temperature.")
    per_prompt: int = Field(1, gt=0, description="At most this many pairs of one prompt are kept.")


class Dpo(StageSpec):
    """Direct preference optimisation trains on preference pairs; `args` accepts fields of TRL's DPOConfig."""

    implementation = "cpt.stages.dpo"
    trl_config = "DPOConfig"
    row_form = "preference"
    teaches = True
    needs_reward = True
    unit = "pairs"

    kind: Literal["dpo"]
    args: dict[str, Any] = Field(
        {}, description="These are fields of TRL's `DPOConfig`, passed unchanged; they override `defaults.dpo.args`."
    )
    reference: Literal["stage-start", "base"] = Field(
        "stage-start",
        description="The implicit KL of DPO is measured from this model: the model as it entered the stage, or the "
        "untouched base.",
    )
    pairs: Pairs = Field(
        Pairs(),
        description="These settings are used to sample pairs for rows that do not have `chosen` and `rejected`.",
    )

    @model_validator(mode="after")
    def _fits(self):
        if self.reference == "base" and self.args.get("precompute_ref_log_probs"):
            raise ValueError(
                "args.precompute_ref_log_probs measures from the policy as the stage begins, and `reference: base` names "
                "another: remove one of the two"
            )
        return self

    @property
    def measures_kl(self) -> bool:
        return True

    @property
    def chooses_rows(self) -> bool:
        return True

    def scores_answers(self, row) -> bool:
        return row.get("chosen") is None

    def problems(self) -> Iterator[tuple[tuple[str, ...], str]]:
        losses = self.args.get("loss_type")
        number = len(losses) if isinstance(losses, list) else 1
        if wrong := weights_problem(self.args.get("loss_weights"), "losses", number):
            yield ("args", "loss_weights"), wrong


class Samples(Strict):
    """Answers are sampled from the present model, and the verified ones are trained on."""

    prompts: int = Field(512, gt=0, description="This many prompts are drawn in each round.")
    samples: int = Field(8, gt=0, description="This many answers are sampled for each prompt.")
    temperature: Temperature = Field(1.0, description="Answers are sampled at this temperature.")
    per_prompt: int = Field(4, gt=0, description="At most this many different correct answers to one prompt are kept.")


class Rejection(StageSpec):
    """Rejection sampling fine-tunes on the model's own verified answers; `args` accepts fields of TRL's SFTConfig."""

    implementation = "cpt.stages.rejection"
    trl_config = "SFTConfig"
    row_form = "prompt"
    needs_reward = True
    refused: ClassVar = OF_TEXTS

    kind: Literal["rejection"]
    args: dict[str, Any] = Field(
        {},
        description="These are fields of TRL's `SFTConfig`, passed unchanged; they override `defaults.rejection.args`.",
    )
    rounds: int = Field(
        1,
        gt=0,
        description="The stage samples and trains this many times, each time with the model that the round before "
        "produced.",
    )
    start: Literal["present", "stage-start"] = Field(
        "present",
        description="The training of each round starts from the present weights (`present`) or from those that "
        "entered the stage (`stage-start`).",
    )
    none_right: Literal["stop", "skip"] = Field(
        "stop",
        description="If a round has no correct answer, `stop` ends the run and `skip` leaves the model as it is, with "
        "a warning.",
    )
    samples: Samples = Field(Samples(), description="These settings are used to sample the answers of each round.")

    @property
    def chooses_rows(self) -> bool:
        return True

    def longest_answer(self, evaluated: int) -> int:
        return evaluated

    def repeats(self) -> str:
        return f" in each of {self.rounds} rounds" if self.rounds > 1 else ""

    def details(self) -> list[str]:
        details = [f"on the correct ones of {self.samples.samples} answers to each of {self.samples.prompts} prompts"]
        if self.rounds > 1:
            start = "present weights" if self.start == "present" else "weights of the stage's start"
            details.append(f"each from the {start}")
        return details
