"""The strategies of a recipe: what may stand under `strategies`. They act on every stage, in the order of the list."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import Field, model_validator

from cpt.recipe_merge import Merge, adapter_problem
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
    rule: Literal["constant", "warmup", "bema", "lcia-paper", "lcia-code", "balanced", "psmt"] = Field(
        "constant", description="how much of the live weights an update takes"
    )
    decay: float = Field(
        0.99, gt=0, lt=1, description="what stays of the average; of the gradient's rules, where they have no answer"
    )
    bias_power: float = Field(0.2, ge=0, description="bema: of the correction (2508.00180)")
    ema_power: float = Field(0.5, gt=0, le=1, description="bema: of the average's weight")
    lag: float = Field(10.0, gt=0, description="bema: steps that both powers are shifted by")
    protected: float = Field(
        0.03,
        gt=0,
        lt=1,
        description="psmt: share of each tensor, of largest Fisher, that an update leaves (2407.02253)",
    )

    @model_validator(mode="after")
    def fits_the_rule(self):
        for name, rule in OPTIONS_OF_RULES.items():
            if self.rule != rule and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is an option of the rule {rule}, not of {self.rule}: take it out")
        if self.rule == "bema" and self.decay != type(self).model_fields["decay"].default:
            raise ValueError("decay is not an option of the rule bema, whose weight falls by ema_power: take it out")
        if self.rule in GRADIENT_RULES and self.device == "cpu":
            raise ValueError(f"{self.rule} compares the average with gradients: device must be `weights`")
        return self


OPTIONS_OF_RULES = {"bias_power": "bema", "ema_power": "bema", "lag": "bema", "protected": "psmt"}
GRADIENT_RULES = ("lcia-paper", "lcia-code", "balanced", "psmt")


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


STRATEGY_MODELS = (Ema, Mcl, Lookahead, StochasticRestore, Merge)
Strategy = Annotated[Union[STRATEGY_MODELS], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)


def problems(strategies: Sequence[Any], adapter: Any) -> Iterator[tuple[int, str, str]]:
    """(number, key, what is wrong with it) between strategies, and between one and the recipe's adapter."""
    merges = [number for number, spec in enumerate(strategies) if isinstance(spec, Merge)]
    for number in merges:
        message = adapter_problem(strategies[number]) if adapter is not None else None
        if message:
            yield number, "method", message
    for number, spec in enumerate(strategies):
        if not isinstance(spec, Averaged) or not merges:
            continue
        if number > merges[0] and (spec.feed_back or spec.serve == "average"):
            yield (
                number,
                "kind",
                "its average would take the place of the merge: put it before the merge, with feed_back true",
            )
        elif spec.serve == "average" and not spec.feed_back:
            yield (
                number,
                "serve",
                "the merge is served, not this average: feed_back true merges it, serve live leaves it out",
            )


def words(spec: Any) -> str:
    """The strategy in the plan: its kind, and what was set."""
    said = spec.model_dump(exclude={"kind"}, exclude_defaults=True)
    return ", ".join([spec.kind, *(f"{name} {told(value)}" for name, value in said.items())])


def told(value: Any) -> str:
    return " ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)
