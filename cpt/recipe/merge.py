"""The strategy `merge` of a recipe. Methods and their options are those of `cpt merge` (docs/merging.md)."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cpt.lora import refusal, takes_from_base
from cpt.recipe.stages import Strict

OPTIONS: dict[str, tuple[str, ...]] = {  # what each method can be told
    "wise": ("weight",),
    "slerp": ("weight",),
    "soup": (),
    "task-arithmetic": ("scale",),
    "ties": ("scale", "density", "trim"),
    "dare": ("scale", "density"),
    "dare-ties": ("scale", "density"),
    "della": ("scale", "density", "epsilon"),
    "breadcrumbs": ("scale", "density", "gamma"),
    "model-stock": (),
    "magmax": ("scale",),
    "fisher": ("weight",),
    "aim": ("weight",),
}
FROM_BASE = tuple(
    name for name in OPTIONS if name not in ("wise", "slerp", "soup", "fisher", "aim")
)  # of changes to the untouched model
WITHOUT_BASE = (*FROM_BASE, "fisher")  # 00-base is no source of theirs: no change of itself, no gradients seen
DELLA_DENSITY, DELLA_EPSILON = 0.5, 0.15  # where left out: those of `cpt merge`


Share = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Field(min_length=1)


class Memory(Strict):
    """Rows kept of each earlier task, and the SFT on them that makes the second model of `aim`."""

    rows: int = Field(64, gt=0, description="training rows kept of each earlier task, chosen by `data.seed`")
    start: Literal["previous", "new"] = Field(
        "previous", description="trained from the point before the task, or on from the new model (the authors' code)"
    )
    args: dict[str, Any] = Field({}, description="words of TRL's SFTConfig, over `defaults.sft.args`")


class Merge(Strict):
    """After each task, or each stage, the new model is merged with earlier ones of the run, in weight space."""

    kind: Literal["merge"]
    method: Literal[
        "wise", "slerp", "soup", "task-arithmetic", "ties", "dare", "dare-ties", "della", "breadcrumbs", "model-stock",
        "magmax", "fisher", "aim",
    ]  # fmt: skip
    sources: Literal["previous", "base", "all"] = Field(
        "previous", description="the points that the new model is merged with: the one before it, 00-base, or all"
    )
    after: Literal["task", "stage"] = Field(
        "task", description="stage: every stage's model is merged; previous is then what the stage started from"
    )
    weight: Share | Annotated[tuple[Share, ...], AtLeastOne] | Literal["average"] | None = Field(
        None,
        description="wise, slerp, fisher: the old model's share (.5); aim: the memory's; a list: one for each task; "
        "average: (t-1)/t",
    )
    scale: float | Annotated[tuple[float, ...], AtLeastOne] | None = Field(
        None,
        description="factor of the merged change of the untouched model (of the method); a list: one for each task",
    )
    density: float | None = Field(None, gt=0, le=1, description="share of each change that is kept (of the method)")
    gamma: float | None = Field(
        None, ge=0, lt=1, description="breadcrumbs: share of the largest changes that goes (.01)"
    )
    epsilon: float | None = Field(None, ge=0, description="della: half the range of the chances of being kept (.15)")
    trim: Literal["tensor", "model"] | None = Field(
        None, description="ties: the share is kept of each tensor (where left out), or of the whole model (the paper)"
    )
    search: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        description="values of weight (wise, slerp, fisher, aim) or scale to judge on the validation rows",
    )
    memory: Memory | None = Field(None, description="aim: the rows kept, and how the second model is trained on them")
    feed_back: bool = Field(True, description="the next task starts from the merge; false: the merge is only served")
    adapters: Literal["factors", "weights"] = Field(
        "factors", description="weights: adapters are read as the full models that they make, and the merge is one"
    )

    @property
    def scheduled(self) -> tuple[float, ...] | None:
        """The values of weight or scale, task by task, where they are given so."""
        value = getattr(self, self.option) if self.option else None
        return value if isinstance(value, tuple) else None

    @property
    def option(self) -> str | None:
        """What a search varies: the method's first option."""
        return next(iter(OPTIONS[self.method]), None)

    @model_validator(mode="after")
    def fits_the_method(self):
        method = self.method
        for name in ("weight", "scale", "density", "gamma", "epsilon", "trim"):
            if getattr(self, name) is not None and name not in OPTIONS[method]:
                having = ", ".join(each for each, options in OPTIONS.items() if name in options)
                raise ValueError(f"{name} is an option of {having}, not of {method}: take it out")
        if method == "slerp" and self.sources == "all":
            raise ValueError("slerp is between two models: sources must be previous or base")
        if method == "model-stock" and self.sources == "base":
            raise ValueError("model-stock wants two models besides the base: sources must be previous or all")
        if method == "fisher":
            self._fits_fisher()
        if method == "della":
            self._fits_della()
        if method == "aim" or self.memory is not None:
            self._fits_aim()
        if self.weight == "average" and not (self.sources == "previous" and self.feed_back):
            raise ValueError(
                "weight average gives each task an equal share by merging every merge into the next: it wants sources "
                "previous and feed_back true (the mean of all points, the base included: soup with sources all)"
            )
        if self.adapters == "weights" and self.feed_back:
            raise ValueError(
                "with adapters weights the merge is a full model, which is served, and the next task goes on from its "
                "adapter: feed_back must be false (or take adapters factors)"
            )
        if self.after == "stage" and not self.feed_back:
            raise ValueError(
                "with after stage the next stage starts from the merge, or all but the last would be lost: feed_back must "
                "be true (or take after task)"
            )
        if self.after == "stage" and self.weight == "average":
            raise ValueError("weight average gives each task an equal share when it ends: it wants after task")
        if self.search is not None:
            self._can_be_searched()
        return self

    def _fits_fisher(self) -> None:
        if self.sources == "base":
            raise ValueError("fisher: the untouched model has no Fisher diagonal: sources must be previous or all")
        if self.after == "stage":
            raise ValueError("fisher: a diagonal is a task's, the sum over its stages: take after task")
        if self.adapters == "weights":
            raise ValueError(
                "fisher: a diagonal is of the adapter's factors, not of the weights: take adapters factors"
            )
        if self.weight == "average":
            raise ValueError(
                "fisher: what is fed back has the sum of its tasks' diagonals, which gives each its share already: leave "
                "weight out, or give a number"
            )

    def _fits_aim(self) -> None:
        if self.method != "aim":
            raise ValueError(f"memory is an option of aim, not of {self.method}: take it out")
        if self.memory is None:
            raise ValueError(
                "aim trains a second model on rows kept of the earlier tasks: give `memory`, for example {rows: 64, args: "
                "{max_steps: 100}}"
            )
        if self.sources != "previous":
            raise ValueError("aim joins changes of the point before the task: sources must be previous")
        if self.after == "stage":
            raise ValueError("aim: the second model is trained once, when a task ends: take after task")
        if self.adapters == "weights":
            raise ValueError("aim is for models that train all weights: take adapters weights out")
        if self.weight == "average":
            raise ValueError("aim: weight is the share of the memory's change: give a number, or leave it out for .5")

    def _fits_della(self) -> None:
        density = DELLA_DENSITY if self.density is None else self.density
        epsilon = DELLA_EPSILON if self.epsilon is None else self.epsilon
        if density - epsilon <= 0 or density + epsilon >= 1:
            raise ValueError(
                f"density {density:g}, epsilon {epsilon:g}: density - epsilon and density + epsilon lie between 0 and 1"
            )

    def _can_be_searched(self) -> None:
        option = self.option
        if option is None:
            raise ValueError(f"search tries values of weight or scale, and {self.method} has neither: take it out")
        if getattr(self, option) is not None:
            raise ValueError(f"search tries values of {option}, which is given too: take one of them out")
        if option == "weight" and not all(0 <= value <= 1 for value in self.search):
            whose = "memory" if self.method == "aim" else "old model"
            raise ValueError(f"search: {self.method} wants the {whose}'s share, from 0 to 1")
        if len(set(self.search)) < len(self.search):
            raise ValueError("search: a value stands twice: keep one")


def adapter_problem(spec: Merge, adapter: Any, engine: str) -> tuple[str, str] | None:
    """(key, why the points of a recipe with this `adapter`, None for none, cannot be merged so), or None."""
    if spec.adapters == "weights":
        return weights_problem(adapter, engine)
    if adapter is None:
        return None
    if spec.method == "aim":
        return "method", (
            "aim joins changes of the point before the task, and before the first there is no adapter that could have "
            "changed: train all weights, or take wise, slerp, soup or fisher"
        )
    if spec.method == "fisher" and takes_from_base(adapter.model_dump()):
        return "method", (
            f"fisher: a diagonal is of the factors that are trained, and with {adapter.model_dump()['init_lora_weights']} a "
            "point holds those that it began with too: take another method, or another init_lora_weights"
        )
    if spec.method in FROM_BASE:
        return "method", (
            f"{spec.method} works on changes of the untouched model, which has no adapter: take wise, slerp, soup or fisher, "
            "or adapters weights"
        )
    if spec.sources == "base":
        return "method", (
            "the untouched model has no adapter to merge with: sources must be previous or all (or take adapters weights)"
        )
    return None


def weights_problem(adapter: Any, engine: str) -> tuple[str, str] | None:
    """`adapter_problem` where adapters are read as full models."""
    if adapter is None:
        return (
            "adapters",
            "weights is for a recipe that trains an adapter, and this one trains all weights: take it out",
        )
    options = adapter.model_dump()
    if takes_from_base(options):
        options["init_lora_weights"] = True  # points hold the LoRA over the untouched base
    said = refusal({"peft_type": options.pop("kind")} | options)
    if said is not None:
        return "adapters", f"weights: {said}: take adapters factors, or another adapter"
    if engine != "transformers":
        return "adapters", (
            f"weights: the engine {engine} serves the untouched model and adapters on it, no merge of all weights: take "
            "`engine: transformers`, or adapters factors"
        )
    return None
