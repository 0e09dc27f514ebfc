"""The catalogue of merge methods: what recipes, `cpt merge`, the documentation and cpt/merging know of each.

A new method is an entry here, and the class in cpt/merging that the entry names. Recipes take its options and their bounds
from here, and so do the command line, docs/merging.md and the JSON Schema. No torch, and nothing slow to import.

theta_0 is the base, tau_i = theta_i - theta_0 what model i changed of it, w_i its weight, lambda `scale`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, Literal

from cpt.errors import UserError


@dataclass(frozen=True)
class Option:
    """A setting that methods have.

    Attributes:
        about: what it does, as a sentence without its capital and period.
        kind: the type of its value.
        bounds: the limits of a number: gt, ge, lt, le.
        choices: the words that it may be; empty for a number.
        aliases: other flags of `cpt merge` for it.
    """

    about: str
    kind: type = float
    bounds: Mapping[str, float] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """`above 0 and at most 1`; empty where every number is allowed."""
        names = {"gt": "above", "ge": "of at least", "lt": "below", "le": "at most"}
        return " and ".join(f"{names[key]} {limit:g}" for key, limit in self.bounds.items())

    def problem(self, value: Any) -> str | None:
        """Why it cannot be `value`, or None."""
        if self.choices:
            return None if value in self.choices else f"no {value}; there are {', '.join(self.choices)}"
        low, high = self.bounds.get("ge", -inf), self.bounds.get("le", inf)
        inside = self.bounds.get("gt", -inf) < value < self.bounds.get("lt", inf) and low <= value <= high
        if isfinite(value) and inside:
            return None
        return f"{value:g}: give a number" + f" {self.range}" * bool(self.range)


OPTIONS = {
    "scale": Option("the merged change is multiplied by this factor lambda", aliases=("--lambda",)),
    "density": Option("this share of each model's change is kept", bounds={"gt": 0, "le": 1}),
    "gamma": Option("this share of each model's change, its largest parameters, is dropped", bounds={"ge": 0, "lt": 1}),
    "epsilon": Option(
        "the probability that a parameter is kept lies within this distance of the density", bounds={"ge": 0}
    ),
    "trim": Option(
        "the share is kept of each tensor, or of the whole model as in the paper",
        str,
        choices=("tensor", "model"),
    ),
    "seed": Option("random numbers are drawn from this seed", int, {"ge": 0}),
}


@dataclass(frozen=True)
class Refused:
    """A value of a field of the strategy `merge` that a method cannot have in a recipe, and why."""

    field: str
    values: tuple[Any, ...]
    message: str


@dataclass(frozen=True)
class MergeMethod:
    """One method.

    Attributes:
        implementation: its module in cpt/merging and its class there.
        summary: what it does, in a few words, for the command line.
        result: what it gives, as docs/merging.md says it.
        paper: its arXiv number, or who described it.
        defaults: its options and their defaults.
        weight: of each model unless given; None where the method has no weights.
        least, most: numbers of models.
        needs_base: whether it works on what the models changed of a base.
        needs_fisher: whether it wants a diagonal of the Fisher information of each model.
        in_run: its module in cpt/strategies/merge and its class there; None where the strategy `merge` has it not.
        changes_of: in a run, the point whose changes it joins: 00-base, or the one before the task.
        needs_memory: whether, in a run, its second model is trained on rows kept of earlier tasks.
        refused: what else a recipe cannot ask of it.
    """

    name: str
    implementation: str
    summary: str
    result: str
    paper: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    weight: float | None = 1.0
    least: int = 1
    most: int | None = None
    needs_fisher: bool = False
    in_run: str | None = None
    changes_of: Literal["base", "previous"] | None = None
    needs_memory: bool = False
    refused: tuple[Refused, ...] = ()

    @property
    def needs_base(self) -> bool:
        return self.changes_of is not None

    @property
    def is_random(self) -> bool:
        return "seed" in self.defaults

    @property
    def first_weight_is_a_share(self) -> bool:
        """Whether a single weight is the first of two models' share, and the second has the rest."""
        return not self.needs_base and not self.needs_fisher and self.weight is not None

    @property
    def strength(self) -> str | None:
        """The option of a recipe that says how much of the old models, or of the change, is merged; a search varies it."""
        return "scale" if "scale" in self.defaults else None if self.weight is None else "weight"

    @property
    def recipe_options(self) -> tuple[str, ...]:
        """The options that a recipe may give: `strength` first. Random numbers come from the stage's own seed there."""
        others = (name for name in self.defaults if name not in ("scale", "seed"))
        return (*(() if self.strength is None else (self.strength,)), *others)


TWO = {"least": 2, "most": 2}
INTERPOLATION = "interpolation.Interpolation"
CHANGES = {"changes_of": "base", "in_run": "changes.Changes"}
DARE = {"scale": 1.0, "density": 0.1, "seed": 0}
AFTER_TASK = "set `after: task`"

_METHODS = (
    MergeMethod(
        "linear",
        "average.Linear",
        "weighted mean",
        "sum w_i theta_i / sum w_i",
        "2203.05482",
        least=2,
    ),
    MergeMethod(
        "soup",
        "average.Soup",
        "plain mean",
        "the plain mean (no weights)",
        "2203.05482",
        weight=None,
        least=2,
        in_run=INTERPOLATION,
    ),
    MergeMethod(
        "wise",
        "average.Wise",
        "two models, a straight line between them",
        "w theta_old + (1 - w) theta_new; two models, the old one first",
        "2109.01903",
        weight=0.5,
        **TWO,
        in_run=INTERPOLATION,
    ),
    MergeMethod(
        "slerp",
        "slerp.Slerp",
        "two models, along the arc",
        "along the arc between the two tensors as vectors; a straight line where abs(cos) > .9995",
        "Shoemake 1985",
        weight=0.5,
        **TWO,
        in_run=INTERPOLATION,
        refused=(
            Refused("sources", ("all",), "slerp interpolates between two models: `sources` must be previous or base"),
        ),
    ),
    MergeMethod(
        "fisher",
        "average.Fisher",
        "by the Fisher information of each parameter (--fisher)",
        "sum w_i F_i theta_i / sum w_i F_i for each parameter; `--fisher` names the diagonals F_i",
        "2111.09832",
        least=2,
        needs_fisher=True,
        in_run="fisher.Fisher",
        refused=(
            Refused(
                "sources",
                ("base",),
                "fisher: the untouched model has no Fisher diagonal: `sources` must be previous or all",
            ),
            Refused(
                "after",
                ("stage",),
                f"fisher: a diagonal belongs to a task and is summed over its stages: {AFTER_TASK}",
            ),
            Refused(
                "adapters",
                ("weights",),
                "fisher: a diagonal belongs to the adapter's factors, not to the weights: set `adapters: factors`",
            ),
            Refused(
                "weight",
                ("average",),
                "fisher: a merge that is fed back has the sum of its tasks' diagonals, so each task has its share "
                "already: leave `weight` out, or give a number",
            ),
        ),
    ),
    MergeMethod(
        "task-arithmetic",
        "arithmetic.TaskArithmetic",
        "sum of changes",
        "theta_0 + lambda sum w_i tau_i",
        "2212.04089",
        {"scale": 0.3},
        **CHANGES,
    ),
    MergeMethod(
        "ties",
        "ties.Ties",
        "trim, elect signs, average",
        "keep the `--density` largest of each tau_i, tensor by tensor or (`--trim model`) of the whole model; for each "
        "parameter elect the sign of sum w_i tau_i; theta_0 + lambda times the weighted mean of those that agree",
        "2306.01708",
        {"scale": 1.0, "density": 0.2, "trim": "tensor"},
        **CHANGES,
    ),
    MergeMethod(
        "dare",
        "dare.Dare",
        "a random tenth of the changes, rescaled",
        "keep each parameter of tau_i with probability `--density` (the paper's 1 - p), divide by it; theta_0 + lambda sum "
        "w_i of what is left",
        "2311.03099",
        DARE,
        **CHANGES,
    ),
    MergeMethod(
        "dare-ties",
        "dare.DareTies",
        "dare, joined by elected signs",
        "the same, joined as `ties` does (sign, mean of those that agree)",
        "2311.03099",
        DARE,
        **CHANGES,
    ),
    MergeMethod(
        "della",
        "della.Della",
        "dare-ties, large changes kept more often",
        "like `dare-ties`, but the probability rises by rank of magnitude in each row from density - epsilon to density + "
        "epsilon, and what is left is rescaled to the tensor's sum of magnitudes",
        "2406.11617",
        {"scale": 1.0, "density": 0.5, "epsilon": 0.15, "seed": 0},
        **CHANGES,
    ),
    MergeMethod(
        "breadcrumbs",
        "breadcrumbs.Breadcrumbs",
        "without the largest and smallest changes",
        "without the `--gamma` largest of tau_i, and without the smallest until `--density` is left; theta_0 + lambda sum "
        "w_i of it",
        "2312.06795",
        {"scale": 1.0, "density": 0.9, "gamma": 0.01},
        **CHANGES,
    ),
    MergeMethod(
        "model-stock",
        "stock.ModelStock",
        "towards the mean, as far as the angles say",
        "theta_0 + t (mean - theta_0), t = N cos / (1 + (N - 1) cos), cos the mean cosine between pairs of tau_i, a tensor "
        "at a time",
        "2403.19522",
        weight=None,
        least=2,
        **CHANGES,
        refused=(
            Refused(
                "sources",
                ("base",),
                "model-stock needs two models besides the base: `sources` must be previous or all",
            ),
        ),
    ),
    MergeMethod(
        "magmax",
        "arithmetic.MagMax",
        "the largest change of each parameter",
        "theta_0 + lambda tau_i, for each parameter the tau_i of largest magnitude",
        "2407.06322",
        {"scale": 0.5},
        weight=None,
        **CHANGES,
    ),
    MergeMethod(
        "aim",
        "arithmetic.Aim",
        "two models, of the new task and of rows kept of the old",
        "theta_0 + w_1 tau_new + w_2 tau_memory; two models: trained on the new task, and on rows kept of the old (the "
        "paper's weights: .4 to .6)",
        "2509.17348",
        weight=0.5,
        **TWO,
        changes_of="previous",
        needs_memory=True,
        in_run="aim.Aim",
        refused=(
            Refused(
                "memory",
                (None,),
                "aim trains a second model on rows kept of the earlier tasks: give `memory`, for example {rows: 64, args: "
                "{max_steps: 100}}",
            ),
            Refused(
                "sources",
                ("base", "all"),
                "aim merges changes of the point before the task: `sources` must be previous",
            ),
            Refused("after", ("stage",), f"aim: the second model is trained once, when a task ends: {AFTER_TASK}"),
            Refused("adapters", ("weights",), "aim works only if all weights are trained: remove `adapters: weights`"),
            Refused(
                "weight",
                ("average",),
                "aim: `weight` is the share of the memory's change: give a number, or leave it out for 0.5",
            ),
        ),
    ),
)
METHODS: dict[str, MergeMethod] = {method.name: method for method in _METHODS}
RECIPE_METHODS = {name: method for name, method in METHODS.items() if method.in_run is not None}


def having(option: str, methods: Mapping[str, MergeMethod] = METHODS) -> list[str]:
    """The names of the methods that have this option."""
    return [name for name, method in methods.items() if option in method.defaults]


def about(option: str) -> str:
    """What an option does, its choices, and each method's default: `this share ... is kept; default: ties 0.2, dare 0.1`."""
    each = ", ".join(f"{name} {shown(METHODS[name].defaults[option])}" for name in having(option))
    choices = f" ({' or '.join(OPTIONS[option].choices)})" * bool(OPTIONS[option].choices)
    return f"{OPTIONS[option].about}{choices}; default: {each}"


def shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def check_options(**values: float | str) -> None:
    """Raise UserError for the first value out of its option's bounds."""
    for name, value in values.items():
        if problem := OPTIONS[name].problem(value):
            raise UserError(f"{name}: {problem}")


def check_probabilities(density: float, epsilon: float) -> None:
    """Raise UserError where a probability of `della` would not be between 0 and 1."""
    check_options(density=density, epsilon=epsilon)
    if density - epsilon <= 0 or density + epsilon >= 1:
        raise UserError(
            f"density {density:g}, epsilon {epsilon:g}: density - epsilon and density + epsilon must lie between 0 "
            "and 1"
        )


def table(methods: Sequence[MergeMethod] = _METHODS) -> str:
    """The table of docs/merging.md."""
    lines = ["| method | result | defaults | paper |", "|---|---|---|---|"]
    for method in methods:
        weights = {} if method.weight in (None, 1.0) else {"weight": method.weight}
        values = weights | {name: value for name, value in method.defaults.items() if name != "seed"}
        defaults = ", ".join(f"{name} {shown(value)}" for name, value in values.items())
        lines.append(f"| `{method.name}` | {method.result} | {defaults} | {method.paper} |")
    return "\n".join(lines)
