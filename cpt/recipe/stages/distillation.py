"""Learning a teacher's distribution on one's own answers."""

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from cpt.recipe.stages.base import StageSpec


class Divergence(StageSpec):
    """What a student is taught a teacher's next-token distribution by, on the student's own answers.

    `forward` is KL(teacher || student), `reverse` KL(student || teacher), `jsd` the generalised Jensen-Shannon divergence
    of GKD (2306.13649): both are measured from a mixture, of which the teacher's share is `alpha`.
    """

    uses_engine = True
    unit = "completions"

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

    @property
    def divergence(self) -> str:
        """The divergence in the plan."""
        return f"JSD ({self.alpha:g} the teacher's)" if self.direction == "jsd" else f"{self.direction} KL"


class SelfDistillation(Divergence):
    """SDFT (2601.19897): the teacher is the model's own average with the demonstration in its context.

    `args` accepts fields of TRL's SDFTConfig.
    """

    trl_config = "SDFTConfig"
    row_form = "prompt and demonstration"
    keeps_average = True
    defaults: ClassVar = {"num_generations": 1}  # one answer a prompt: the authors' code of 2601.19897
    refused: ClassVar = {
        "distillation_alpha": "use `direction` (and `alpha`) beside `args`",
        "distillation_mode": "use `top_k` beside `args`, or leave it out for the whole vocabulary",
        "distillation_topk": "use `top_k` beside `args`",
        "distillation_add_tail": "use `tail` beside `args`",
        "teacher_model_kind": "use `ema_rate` beside `args`: 0 keeps the model as it came to the stage",
        "teacher_update_rate": "use `ema_rate` beside `args`",
        "teacher_sync_steps": "use `sync_every` beside `args`",
        "teacher_prompt_template": "use `template` beside `args`",
        "use_teacher_server": "the teacher answers in the training processes; take it out",
        "max_prompt_length": "no prompt is cut: shorten or drop long rows",
        "cache_implementation": "the run's engine generates: use `rollouts`",
    }

    kind: Literal["self-distillation"]
    args: dict[str, Any] = Field({})
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

    @property
    def compares_policies(self) -> bool:
        return True

    @property
    def asks_tokenizer(self) -> bool:
        return True

    def whole_weights(self) -> Iterator[tuple[str, str]]:
        yield "kind", "the teacher's average needs whole weights"

    def trl_options(self) -> dict[str, Any]:
        """The teacher's average is ours (`stages.average`), so for TRL it is fixed."""
        return {
            "distillation_alpha": self.interpolation,
            "distillation_mode": "full_logits" if self.top_k is None else "topk_logits",
            "distillation_topk": self.top_k,
            "distillation_add_tail": self.tail,
            "teacher_model_kind": "base",
            "max_prompt_length": None,  # TRL cuts at 512 without a word
        }

    def details(self) -> list[str]:
        over = "the whole vocabulary" if self.top_k is None else f"the student's top {self.top_k}"
        rate = f"an average of its weights at rate {self.ema_rate:g}" if self.ema_rate else "its weights as they came"
        every = f" every {self.sync_every} steps" if self.sync_every > 1 and self.ema_rate else ""
        return [
            f"{self.divergence} over {over} to itself with the demonstration in context, by {rate}{every} (a second copy of "
            "them)"
        ]


class Distill(Divergence):
    """On-policy distillation from a teacher (GKD, 2306.13649); `args` accepts fields of TRL's DistillationConfig."""

    trl_config = "DistillationConfig"
    row_form = "prompt"
    refused: ClassVar = {
        "beta": "use `direction` (and `alpha`) beside `args`",
        "teacher_model_name_or_path": "use `teacher` beside `args`",
        "teacher_model_revision": "use `teacher_revision` beside `args`",
        "teacher_model_init_kwargs": "use `teacher_dtype` beside `args`",
        "max_tool_calling_iterations": "there are no tools; take it out",
        "cache_implementation": "the run's engine generates: use `rollouts`",
    }

    kind: Literal["distill"]
    args: dict[str, Any] = Field({})
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

    @property
    def asks_tokenizer(self) -> bool:
        return self.teacher != "base"

    def trl_options(self) -> dict[str, Any]:
        return {"beta": self.interpolation}

    def details(self) -> list[str]:
        return [f"{self.divergence} to {self.teacher} (whose weights stay in memory)"]
