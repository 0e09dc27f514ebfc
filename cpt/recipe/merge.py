"""The strategy `merge` of a recipe. Methods and their options are those of `cpt merge` (docs/merging.md)."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cpt.errors import UserError
from cpt.lora import refusal, takes_from_base
from cpt.merge_methods import METHODS, OPTIONS, RECIPE_METHODS, MergeMethod, about, check_probabilities
from cpt.recipe.base import StrategySpec, Strict

Share = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Field(min_length=1)
STRENGTHS = ("weight", "scale")


def option(name: str, more: str = "") -> Any:
    """The field of an option of the catalogue; left out it has the method's default."""
    text = about(name)
    return Field(None, **OPTIONS[name].bounds, description=f"{text[0].upper()}{text[1:]}{more}.")


class Memory(Strict):
    """Rows of each earlier task are kept, and the second model of `aim` is trained on them by SFT."""

    rows: int = Field(
        64, gt=0, description="This many training rows of each earlier task are kept, drawn by `data.seed`."
    )
    start: Literal["previous", "new"] = Field(
        "previous",
        description="The second model is trained from the point before the task (`previous`) or from the new model "
        "(`new`, as in the authors' code).",
    )
    args: dict[str, Any] = Field(
        {}, description="These are fields of TRL's `SFTConfig`, passed unchanged; they override `defaults.sft.args`."
    )


class Merge(StrategySpec):
    """After each task or stage, the new model is merged with earlier models of the run in weight space."""

    implementation = "cpt.strategies.merge.strategy:Merge"

    kind: Literal["merge"]
    method: Literal[tuple(RECIPE_METHODS)] = Field(
        description="Models are merged by this method; docs/merging.md has the formula of each."
    )
    sources: Literal["previous", "base", "all"] = Field(
        "previous",
        description="The new model is merged with the point before it (`previous`), with 00-base (`base`), or with "
        "all earlier points (`all`).",
    )
    after: Literal["task", "stage"] = Field(
        "task",
        description="The model is merged when a task ends (`task`) or when each stage ends (`stage`, where `previous` "
        "is the model that the stage started from).",
    )
    weight: Share | Annotated[tuple[Share, ...], AtLeastOne] | Literal["average"] | None = Field(
        None,
        description="The old model has this share with `wise`, `slerp` and `fisher`, and the memory's model with "
        "`aim`; if null, it is 0.5 (`fisher`: all models weigh the same). A list gives one value for each "
        "task; `average` is (t-1)/t after task t.",
    )
    scale: float | Annotated[tuple[float, ...], AtLeastOne] | None = option(
        "scale", "; a list gives one value for each task"
    )
    density: float | None = option("density")
    gamma: float | None = option("gamma")
    epsilon: float | None = option("epsilon")
    trim: Literal[OPTIONS["trim"].choices] | None = option("trim")
    search: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        description="Each of these values of `weight` (wise, slerp, fisher, aim) or `scale` is tried, and the best on "
        "the validation rows is used.",
    )
    memory: Memory | None = Field(
        None, description="`aim` keeps these rows and trains its second model on them; other methods have no memory."
    )
    feed_back: bool = Field(
        True,
        description="If true, the next task starts from the merge; if false, the merge is only evaluated and shipped.",
    )
    adapters: Literal["factors", "weights"] = Field(
        "factors",
        description="Adapters are merged factor by factor (`factors`), or as the full models that they make with the "
        "base (`weights`).",
    )

    @property
    def facts(self) -> MergeMethod:
        """What the catalogue says of the method."""
        return METHODS[self.method]

    def whole_weights(self) -> Iterator[tuple[str, str]]:
        if self.facts.needs_fisher:
            yield "method", f"{self.method} needs whole squares of gradients"

    @property
    def option(self) -> str | None:
        """What a search varies, and a list gives task by task: weight or scale."""
        return self.facts.strength

    @property
    def scheduled(self) -> tuple[float, ...] | None:
        """The values of weight or scale, task by task, where they are given so."""
        value = getattr(self, self.option) if self.option else None
        return value if isinstance(value, tuple) else None

    def value_of(self, name: str) -> Any:
        """An option as it is given, else the method's default."""
        given = getattr(self, name)
        return self.facts.defaults[name] if given is None else given

    @model_validator(mode="after")
    def fits_the_method(self):
        for name in (*STRENGTHS, *(name for name in OPTIONS if name not in ("scale", "seed"))):
            if getattr(self, name) is not None and name not in self.facts.recipe_options:
                others = [each.name for each in RECIPE_METHODS.values() if name in each.recipe_options]
                raise ValueError(f"{name} is an option of {', '.join(others)}, not of {self.method}: remove it")
        if self.memory is not None and not self.facts.needs_memory:
            others = [each.name for each in RECIPE_METHODS.values() if each.needs_memory]
            raise ValueError(f"memory is an option of {', '.join(others)}, not of {self.method}: remove it")
        for refused in self.facts.refused:
            if getattr(self, refused.field) in refused.values:
                raise ValueError(refused.message)
        if "epsilon" in self.facts.defaults:
            try:
                check_probabilities(self.value_of("density"), self.value_of("epsilon"))
            except UserError as error:
                raise ValueError(str(error)) from None
        self._fits_what_follows()
        if self.search is not None:
            self._can_be_searched()
        return self

    def _fits_what_follows(self) -> None:
        """What the next task or stage starts from agrees with what is merged."""
        if self.weight == "average" and not (self.sources == "previous" and self.feed_back):
            raise ValueError(
                "`weight: average` gives each task an equal share by merging each merge into the next: it needs "
                "`sources: previous` and `feed_back: true` (for the mean of all points, the base included, use soup "
                "with `sources: all`)"
            )
        if self.adapters == "weights" and self.feed_back:
            raise ValueError(
                "with `adapters: weights` the merge is a full model, which is served, and the next task starts from "
                "its adapter: `feed_back` must be false (or set `adapters: factors`)"
            )
        if self.after == "stage" and not self.feed_back:
            raise ValueError(
                "with `after: stage` the next stage starts from the merge, or all but the last would be lost: "
                "`feed_back` must be true (or set `after: task`)"
            )
        if self.after == "stage" and self.weight == "average":
            raise ValueError("`weight: average` gives each task an equal share when it ends: it needs `after: task`")

    def _can_be_searched(self) -> None:
        option = self.option
        if option is None:
            raise ValueError(f"search tries values of weight or scale, and {self.method} has neither: remove it")
        if getattr(self, option) is not None:
            raise ValueError(f"search tries values of {option}, which is given too: remove one of them")
        if option == "weight" and not all(0 <= value <= 1 for value in self.search):
            whose = "memory" if self.facts.needs_memory else "old model"
            raise ValueError(f"search: {self.method} needs the {whose}'s share, from 0 to 1")
        if len(set(self.search)) < len(self.search):
            raise ValueError("search: a value appears twice: keep one")


def adapter_problem(spec: Merge, adapter: Any, engine: str) -> tuple[str, str] | None:
    """(key, why the points of a recipe with this `adapter`, None for none, cannot be merged so), or None."""
    if spec.adapters == "weights":
        return weights_problem(adapter, engine)
    if adapter is None:
        return None
    if spec.facts.changes_of == "previous":
        return "method", (
            f"{spec.method} merges changes of the point before the task, and before the first there is no adapter "
            "that could have changed: train all weights, or use wise, slerp, soup or fisher"
        )
    start = adapter.model_dump().get("init_lora_weights")
    if spec.facts.needs_fisher and takes_from_base(adapter.model_dump()):
        return "method", (
            f"{spec.method}: a diagonal belongs to the trained factors, and with {start} a point also holds the "
            "initial ones: use another method, or another init_lora_weights"
        )
    if spec.facts.changes_of == "base":
        return "method", (
            f"{spec.method} works on changes of the untouched model, which has no adapter: use wise, slerp, soup or "
            "fisher, or set `adapters: weights`"
        )
    if spec.sources == "base":
        return "method", (
            "the untouched model has no adapter to merge with: `sources` must be previous or all (or set `adapters: "
            "weights`)"
        )
    return None


def weights_problem(adapter: Any, engine: str) -> tuple[str, str] | None:
    """`adapter_problem` where adapters are read as full models."""
    if adapter is None:
        return (
            "adapters",
            "`weights` is for recipes that train an adapter, and this one trains all weights: remove it",
        )
    options = adapter.model_dump()
    if takes_from_base(options):
        options["init_lora_weights"] = True  # points hold the LoRA over the untouched base
    reason = refusal({"peft_type": options.pop("kind")} | options)
    if reason is not None:
        return "adapters", f"weights: {reason}: set `adapters: factors`, or use another adapter"
    if engine != "transformers":
        return "adapters", (
            f"weights: the engine {engine} serves the untouched model and adapters on it, not a merge of all "
            "weights: use `engine: transformers`, or set `adapters: factors`"
        )
    return None
