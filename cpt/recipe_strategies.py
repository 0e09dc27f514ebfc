"""The strategies of a recipe: what may stand under `strategies`. They act on every stage, in the order of the list."""

from typing import Annotated, Any, Literal, Union

from pydantic import Field, model_validator

from cpt.recipe_stages import Strict


class Averaged(Strict):
    """What strategies that keep average weights share."""

    serve: Literal["average", "live"] = Field("average", description="which weights are evaluated and shipped")
    feed_back: bool = Field(False, description="the next task starts from the average, not from the live weights")
    span: Literal["stream", "task"] = Field("stream", description="an average goes on, or begins anew with each task")
    every: int = Field(1, gt=0, description="optimiser steps between two updates")
    start: int = Field(
        0, ge=0, description="steps of the span before the average begins; until then it is the live weights"
    )
    dtype: Literal["float32", "weights"] = Field("float32", description="of the average while training")
    device: Literal["weights", "cpu"] = Field(
        "weights", description="where the average lives: beside the weights, or in CPU memory with overlapped copies"
    )


class Ema(Averaged):
    """Exponential moving average of the trained weights, updated after the optimiser's step."""

    kind: Literal["ema"]
    rule: Literal["constant", "warmup", "bema", "lcia-paper", "lcia-code", "balanced"] = Field(
        "constant", description="how much of the live weights an update takes"
    )
    decay: float = Field(
        0.99, gt=0, lt=1, description="what stays of the average; of the gradient's rules, where they have no answer"
    )
    bias_power: float = Field(0.2, ge=0, description="bema: of the correction (2508.00180)")
    ema_power: float = Field(0.5, gt=0, le=1, description="bema: of the average's weight")
    lag: float = Field(10.0, gt=0, description="bema: steps that both powers are shifted by")

    @model_validator(mode="after")
    def fits_the_rule(self):
        for name in ("bias_power", "ema_power", "lag"):
            if self.rule != "bema" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is an option of the rule bema, not of {self.rule}: take it out")
        if self.rule == "bema" and self.decay != type(self).model_fields["decay"].default:
            raise ValueError("decay is not an option of the rule bema, whose weight falls by ema_power: take it out")
        if self.rule in GRADIENT_RULES and self.device == "cpu":
            raise ValueError(f"{self.rule} compares the average with gradients: device must be `weights`")
        return self


GRADIENT_RULES = ("lcia-paper", "lcia-code", "balanced")


class Mcl(Averaged):
    """Slow weights from the untouched model on, which are served (2211.03186): an average over the whole stream."""

    kind: Literal["mcl"]
    decay: float = Field(0.99, gt=0, lt=1, description="of the slow weights (the paper's own value is not known here)")


class Lookahead(Strict):
    """Every few steps, slow weights go part of the way to the live ones, which go on from there (1907.08610)."""

    kind: Literal["lookahead"]
    every: int = Field(5, gt=0, description="optimiser steps between two (the paper's k)")
    alpha: float = Field(0.5, gt=0, le=1, description="the part of the way (the paper's)")


class StochasticRestore(Strict):
    """After each step, single weights go back to where they began by chance (CoTTA, 2203.13591)."""

    kind: Literal["stochastic-restore"]
    probability: float = Field(0.01, gt=0, le=1, description="of each weight, at each step (the authors' code)")
    every: int = Field(1, gt=0, description="optimiser steps between two")
    to: Literal["stream-start", "task-start"] = Field("stream-start", description="the weights that they go back to")


STRATEGY_MODELS = (Ema, Mcl, Lookahead, StochasticRestore)
Strategy = Annotated[Union[STRATEGY_MODELS], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)


def words(spec: Any) -> str:
    """The strategy in the plan: its kind, and what was set."""
    said = spec.model_dump(exclude={"kind"}, exclude_defaults=True)
    return ", ".join([spec.kind, *(f"{name} {value}" for name, value in said.items())])
