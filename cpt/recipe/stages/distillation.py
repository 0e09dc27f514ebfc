"""Distillation: the model learns a teacher's distribution on its own answers."""

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from cpt.recipe.stages.base import StageSpec


class Divergence(StageSpec):
    """The divergence from a teacher's next-token distribution, on the student's own answers.

    `forward` is KL(teacher || student), `reverse` KL(student || teacher), `jsd` the generalised Jensen-Shannon divergence
    of GKD (2306.13649), in which both are compared with a mixture that has `alpha` of the teacher.
    """

    uses_engine = True
    unit = "completions"

    direction: Literal["forward", "reverse", "jsd"]
    alpha: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="With `direction: jsd`, this is the teacher's share of the mixture and the weight of its KL.",
    )

    @model_validator(mode="after")
    def alpha_is_of_the_mixture(self):
        if self.direction != "jsd" and self.alpha != 0.5:
            raise ValueError(f"alpha is an option of jsd, not of {self.direction}: remove it")
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
    """The teacher is an average of the model itself, with the demonstration in its context (SDFT, 2601.19897).

    `args` accepts fields of TRL's SDFTConfig.
    """

    implementation = "cpt.stages.self_distillation"
    trl_config = "SDFTConfig"
    row_form = "prompt and demonstration"
    keeps_average = True
    defaults: ClassVar = {"num_generations": 1}  # one answer a prompt: the authors' code of 2601.19897
    refused: ClassVar = {
        "distillation_alpha": "use `direction` (and `alpha`) beside `args`",
        "distillation_mode": "use `top_k` beside `args`, or leave it out for the whole vocabulary",
        "distillation_topk": "use `top_k` beside `args`",
        "distillation_add_tail": "use `tail` beside `args`",
        "teacher_model_kind": "use `ema_rate` beside `args`: 0 keeps the model as it entered the stage",
        "teacher_update_rate": "use `ema_rate` beside `args`",
        "teacher_sync_steps": "use `sync_every` beside `args`",
        "teacher_prompt_template": "use `template` beside `args`",
        "use_teacher_server": "the teacher runs in the training processes; remove it",
        "max_prompt_length": "no prompt is cut: shorten or drop long rows",
        "cache_implementation": "the run's engine generates: use `rollouts`",
    }

    kind: Literal["self-distillation"]
    args: dict[str, Any] = Field(
        {},
        description="These are fields of TRL's `SDFTConfig`, passed unchanged; they override "
        "`defaults.self-distillation.args`.",
    )
    direction: Literal["forward", "reverse", "jsd"] = Field(
        "forward",
        description="The loss is KL(teacher || student) with `forward`, KL(student || teacher) with `reverse`, and "
        "the generalised Jensen-Shannon divergence with `jsd`. The authors obtained all results of the "
        "paper with `forward`, although its text says reverse.",
    )
    top_k: int | None = Field(
        None,
        gt=0,
        description="The divergence covers only this many of the student's most likely tokens; if null, it covers the "
        "whole vocabulary (as in the paper).",
    )
    tail: bool = Field(
        False, description="With `top_k`, true counts all other tokens together as one more token; false ignores them."
    )
    ema_rate: float = Field(
        0.05,
        ge=0,
        le=1,
        description="An update of the teacher takes this share of the student's weights (default: TRL's); 0 keeps the "
        "weights that the stage started from.",
    )
    sync_every: int = Field(1, gt=0, description="The teacher is updated once in this many optimiser steps.")
    template: str = Field(
        "{prompt}\n\nThis is an example for a response to the question:\n{demonstration}\n\n"
        "Now answer with a response of your own, including the thinking process.",
        description="The teacher's prompt is made from this text by filling in `{prompt}` and `{demonstration}`; in a "
        "chat it replaces the last message (default: the authors' code).",
    )

    @model_validator(mode="after")
    def can_be_asked(self):
        if self.tail and self.top_k is None:
            raise ValueError("tail is what top_k leaves out: give top_k, or remove tail")
        if self.sync_every > 1 and self.ema_rate == 0:
            raise ValueError("ema_rate 0 keeps the teacher unchanged: remove sync_every")
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
        rate = f"an average of its weights at rate {self.ema_rate:g}" if self.ema_rate else "its initial weights"
        every = f" every {self.sync_every} steps" if self.sync_every > 1 and self.ema_rate else ""
        return [
            f"{self.divergence} over {over} to itself with the demonstration in context, by {rate}{every} (a second copy of "
            "them)"
        ]


class Distill(Divergence):
    """The model learns a teacher's distribution on its own answers (GKD, 2306.13649).

    `args` accepts fields of TRL's DistillationConfig.
    """

    implementation = "cpt.stages.distill"
    trl_config = "DistillationConfig"
    row_form = "prompt"
    refused: ClassVar = {
        "beta": "use `direction` (and `alpha`) beside `args`",
        "teacher_model_name_or_path": "use `teacher` beside `args`",
        "teacher_model_revision": "use `teacher_revision` beside `args`",
        "teacher_model_init_kwargs": "use `teacher_dtype` beside `args`",
        "max_tool_calling_iterations": "there are no tools; remove it",
        "cache_implementation": "the run's engine generates: use `rollouts`",
    }

    kind: Literal["distill"]
    args: dict[str, Any] = Field(
        {},
        description="These are fields of TRL's `DistillationConfig`, passed unchanged; they override "
        "`defaults.distill.args`.",
    )
    teacher: str = Field(
        description="The teacher is a model folder, a hub id (owner/name), or `base`, the model before the stream."
    )
    teacher_revision: str | None = Field(
        None,
        description="This branch, tag or commit of the teacher's repository on the hub is used; if null, its default "
        "branch.",
    )
    teacher_dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = Field(
        None, description="The teacher's weights are loaded in this dtype; if null, in that of `model.dtype`."
    )
    direction: Literal["forward", "reverse", "jsd"] = Field(
        "reverse",
        description="The loss is KL(teacher || student) with `forward`, KL(student || teacher) with `reverse` (TRL's "
        "default), and the generalised Jensen-Shannon divergence with `jsd`.",
    )

    @model_validator(mode="after")
    def base_is_here(self):
        if self.teacher == "base" and self.teacher_revision is not None:
            raise ValueError("teacher_revision belongs to a repository on the hub, not to base: remove it")
        return self

    @property
    def asks_tokenizer(self) -> bool:
        return self.teacher != "base"

    def trl_options(self) -> dict[str, Any]:
        return {"beta": self.interpolation}

    def details(self) -> list[str]:
        return [f"{self.divergence} to {self.teacher} (whose weights stay in memory)"]
