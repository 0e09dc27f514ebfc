"""The strategies of a recipe: what may stand under `strategies`. They act on every stage, in the order of the list."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import Field, model_validator

from cpt.recipe.base import StrategySpec
from cpt.recipe.merge import Merge, adapter_problem


class Averaged(StrategySpec):
    """What strategies that keep average weights share; the `rule` of each says how much of the live weights it takes."""

    serve: Literal["ema", "live"] = Field("ema", description="which weights are evaluated and shipped")
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
    reference: Literal["stage", "ema"] = Field(
        "stage", description="the KL is measured from what each stage says, or from the average as it moves"
    )
    rollouts: Literal["live", "ema"] = Field(
        "live", description="the policy that answers in rlvr and hybrid stages; the average's are corrected for"
    )

    def state_bytes(self, trained: int, width: int) -> int:
        return trained * 4 // width if self.dtype == "float32" else trained

    def whole_weights(self) -> Iterator[tuple[str, str]]:
        if self.rule in GRADIENT_RULES:
            yield "rule", f"{self.rule} needs whole gradients"
        used = next((name for name in ("reference", "rollouts") if getattr(self, name) == "ema"), None)
        if used is not None:
            yield used, "the average needs whole weights"


@dataclass(frozen=True)
class EmaRule:
    """A rule of `ema`: its module in cpt/strategies/ema/rules and its class there, its options, and whether it looks at
    gradients."""

    implementation: str
    options: tuple[str, ...] = ("decay",)
    needs_gradients: bool = False


EMA_RULES = {
    "constant": EmaRule("constant.Constant"),
    "warmup": EmaRule("constant.Warmup"),
    "bema": EmaRule("bema.Bema", ("bias_power", "ema_power", "lag")),
    "lcia-paper": EmaRule("lcia.LciaPaper", needs_gradients=True),
    "lcia-code": EmaRule("lcia.LciaCode", needs_gradients=True),
    "balanced": EmaRule("balanced.Balanced", needs_gradients=True),
    "psmt": EmaRule("psmt.Psmt", ("decay", "protected"), needs_gradients=True),
}
GRADIENT_RULES = tuple(name for name, rule in EMA_RULES.items() if rule.needs_gradients)


class Ema(Averaged):
    """Exponential moving average of the trained weights, updated after the optimiser's step."""

    kind: Literal["ema"]
    rule: Literal[tuple(EMA_RULES)] = Field("constant", description="how much of the live weights an update takes")
    decay: float = Field(
        0.99, gt=0, lt=1, description="what stays of the average; of the gradient's rules, where they have no answer"
    )
    bias_power: float = Field(0.2, ge=0, description="bema: of the correction (the authors' bema.yaml)")
    ema_power: float = Field(0.5, gt=0, le=1, description="bema: of the average's weight (the authors' bema.yaml)")
    lag: float = Field(10.0, ge=0, description="bema: steps that both powers are shifted by (the authors' bema.yaml)")
    protected: float = Field(
        0.03,
        gt=0,
        lt=1,
        description="psmt: share of each tensor, of largest Fisher, that an update leaves (2407.02253)",
    )

    @model_validator(mode="after")
    def fits_the_rule(self):
        options = dict.fromkeys(name for rule in EMA_RULES.values() for name in rule.options)
        for name in options:
            if (
                name not in EMA_RULES[self.rule].options
                and getattr(self, name) != type(self).model_fields[name].default
            ):
                rules = [each for each, rule in EMA_RULES.items() if name in rule.options]
                named = f"rule{'s' * (len(rules) > 1)} {', '.join(rules)}"
                raise ValueError(f"{name} is an option of the {named}, not of {self.rule}: take it out")
        if EMA_RULES[self.rule].needs_gradients and self.device == "cpu":
            raise ValueError(f"{self.rule} compares the average with gradients: device must be `weights`")
        return self


class Mcl(Averaged):
    """Slow weights from the untouched model on, which are served (2211.03186): an average over the whole stream."""

    kind: Literal["mcl"]
    rule: ClassVar[str] = "constant"
    decay: float = Field(0.99, gt=0, lt=1, description="of the slow weights (the paper's own value is not known here)")


class Lookahead(StrategySpec):
    """Every few steps, slow weights go part of the way to the live ones, which go on from there (1907.08610)."""

    kind: Literal["lookahead"]
    every: int = Field(5, gt=0, description="optimiser steps between two (the paper's k)")
    alpha: float = Field(0.5, gt=0, le=1, description="the part of the way (the paper's)")


class StochasticRestore(StrategySpec):
    """After each step, single weights go back to where they began by chance (CoTTA, 2203.13591)."""

    kind: Literal["stochastic-restore"]
    probability: float = Field(0.01, gt=0, le=1, description="of each weight, at each step (the authors' code)")
    every: int = Field(1, gt=0, description="optimiser steps between two")
    to: Literal["stream-start", "task-start"] = Field("stream-start", description="the weights that they go back to")

    def state_bytes(self, trained: int, width: int) -> int:
        return trained

    def whole_weights(self) -> Iterator[tuple[str, str]]:
        yield "kind", "stochastic-restore draws for whole weights"


STRATEGY_MODELS = (Ema, Mcl, Lookahead, StochasticRestore, Merge)
Strategy = Annotated[Union[STRATEGY_MODELS], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)


def problems(strategies: Sequence[Any], adapter: Any, engine: str) -> Iterator[tuple[int, str, str]]:
    """(number, key, what is wrong with it) between strategies, and between one and the recipe's adapter and engine."""
    merges = [number for number, spec in enumerate(strategies) if isinstance(spec, Merge)]
    for number in merges:
        found = adapter_problem(strategies[number], adapter, engine)
        if found:
            yield number, *found
    averages = [number for number, spec in enumerate(strategies) if isinstance(spec, Averaged)]
    for key, value, said, other in (("serve", "ema", "ema", "live"), ("feed_back", True, "true", "false")):
        first, *others = [number for number in averages if getattr(strategies[number], key) == value] or [None]
        for number in others:
            yield number, key, f"is {said} in strategies.{first} too, and there can be one: say {other} in one of them"
    stages = any(strategies[number].after == "stage" for number in merges)
    for number, spec in enumerate(strategies):
        if not isinstance(spec, Averaged) or not merges:
            continue
        if stages and (spec.feed_back or spec.serve == "ema"):
            yield (
                number,
                "kind",
                "its average, of the end of a task, would take the place of what `after: stage` merged: merge after task, "
                "or keep no average here (serve live, feed_back false)",
            )
        elif number > merges[0] and (spec.feed_back or spec.serve == "ema"):
            yield (
                number,
                "kind",
                "its average would take the place of the merge: put it before the merge, with feed_back true",
            )
        elif spec.serve == "ema" and not spec.feed_back:
            yield (
                number,
                "serve",
                "the merge is served, not this average: feed_back true merges it, serve live leaves it out",
            )


def against_stages(strategies: Sequence[Any], stream: Sequence[Any]) -> Iterator[tuple[int, str, str]]:
    """(number, key, what is wrong with it) between what a strategy would do in stages, and the stages that there are."""
    stages = [(f"stream.{task.task}.stages.{i}", stage) for task in stream for i, stage in enumerate(task.stages)]
    for key, check in (("rollouts", rollout_problems), ("reference", reference_problems)):
        asking = [number for number, spec in enumerate(strategies) if getattr(spec, key) == "ema"]
        for number in asking[1:]:
            yield number, key, f"is `ema` in strategies.{asking[0]} too: there can be one"
        for message in check(stages) if asking else ():
            yield asking[0], key, message
    for number, spec in enumerate(strategies):
        values = spec.scheduled if isinstance(spec, Merge) else None
        if values and len(values) != len(stream):
            yield (
                number,
                spec.option,
                f"has {len(values)} values, and the stream {len(stream)} tasks: give one for each",
            )


def rollout_problems(stages: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """Why rollouts cannot be an average's."""
    if not any(stage.takes_rollout_policy for _, stage in stages):
        yield "no stage would make rollouts by the average (rlvr and hybrid do): say live"
    for key, stage in stages:
        if stage.uses_engine and not stage.takes_rollout_policy:
            yield f"{key} ({stage.kind}) learns from its own answers: say live"
        elif stage.filter is not None:
            yield f"{key} has a filter, whose rollouts are those of the stage's start: say live, or take the filter out"


def reference_problems(stages: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """Why no KL can be measured from an average."""
    measured = [(key, stage) for key, stage in stages if stage.measures_kl]
    if not measured:
        yield "no stage measures a KL (rlvr and hybrid with a beta in `args`, and dpo do): say stage"
    for key, stage in measured:
        if stage.reference != "stage-start":
            yield f"{key} has the reference {stage.reference}: leave that out, or say stage"
        for name in ("sync_ref_model", "precompute_ref_log_probs"):
            if stage.args.get(name):
                yield f"{key} has a reference that another moves or fixes ({name}): take that out, or say stage"


def words(spec: Any) -> str:
    """The strategy in the plan: its kind, and what was set."""
    said = spec.model_dump(exclude={"kind"}, exclude_defaults=True)
    return ", ".join([spec.kind, *(f"{name} {told(value)}" for name, value in said.items())])


def told(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {told(each)}" for name, each in value.items()) + "}"
    return " ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)
