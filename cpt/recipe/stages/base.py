"""What every kind of stage says of itself. A new kind is a class of this room; nobody else asks which kind a stage is."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cpt.recipe.base import Kind
from cpt.recipe.config_fields import Argument
from cpt.recipe.trl_configs import config_arguments
from cpt.sizes import many

RowForm = Literal["demonstration", "preference", "prompt", "prompt and demonstration"]


class StageSpec(Kind):
    """A stage of a task: its facts, the same of all of its kind, and what the recipe says of it."""

    trl_config: ClassVar[str]  # TRL's config class: `args` accepts its fields
    row_form: ClassVar[RowForm]  # what it takes of each row (`cpt.data.rows.FORMS`)
    teaches: ClassVar[bool] = False  # trains on texts of the rows, where they have some
    uses_engine: ClassVar[bool] = False  # trains on answers that the engine gives at each step
    takes_rollout_policy: ClassVar[bool] = False  # another policy than the trained one may give these answers
    needs_reward: ClassVar[bool] = False  # the task's reward decides what is learnt
    keeps_average: ClassVar[bool] = False  # holds and saves an average of the weights
    unit: ClassVar[str] = "rows"  # what a batch is counted in
    smallest_group: ClassVar[int] = 1  # answers of a prompt
    defaults: ClassVar[Mapping[str, Any]] = {}  # arguments over TRL's defaults, each with its source
    refused: ClassVar[Mapping[str, str]] = {}  # {argument: what to do instead}, besides what all kinds refuse

    optional = (
        *("advantage", "dynamic_sampling", "filter", "overlong", "snr_step", "ttrl"),
        *("long_demonstrations", "method", "reference", "teacher", "template", "top_k"),
    )

    if TYPE_CHECKING:  # fields of each kind, or of some: None in the others
        kind: str
        args: dict[str, Any]
        advantage: str | None
        dynamic_sampling: Any
        filter: Any
        overlong: Any
        snr_step: Any
        ttrl: Any
        long_demonstrations: str | None
        method: str | None
        reference: str | None
        teacher: str | None
        template: str | None
        top_k: int | None

    @classmethod
    def arguments(cls) -> dict[str, Argument]:
        """What `args` may hold."""
        return config_arguments(cls.trl_config)

    @classmethod
    def value_in(cls, args: Mapping[str, Any], name: str) -> Any:
        """What an argument will be: that of `args`, else TRL's default; None where TRL has no such argument."""
        known = cls.arguments()
        return args.get(name, known[name].default) if name in known else None

    def value(self, name: str) -> Any:
        """What an argument of this stage will be."""
        return self.value_in(self.args, name)

    @property
    def group(self) -> int:
        """The answers that are sampled to each prompt."""
        return self.value("num_generations") or 1

    @property
    def measures_kl(self) -> bool:
        """Whether the policy is held to a reference (`reference`)."""
        return False

    @property
    def compares_policies(self) -> bool:
        """Whether the policy is compared with other weights over the same base: a reference's, or a teacher's."""
        return self.measures_kl

    @property
    def chooses_rows(self) -> bool:
        """Whether what it trains on is sampled or filtered first, so that nobody can count it before."""
        return False

    @property
    def asks_tokenizer(self) -> bool:
        """Whether something about it can be known only with the tokenizer, or with another model."""
        return False

    def trl_options(self) -> dict[str, Any]:
        """The stage's own options as fields of TRL's config."""
        return {}

    def longest_answer(self, evaluated: int) -> int:
        """The most tokens of an answer that it samples; `evaluated` are those of an evaluated answer."""
        return self.value("max_completion_length") if self.uses_engine else 0

    def scores_answers(self, row: Mapping[str, Any]) -> bool:
        """Whether the reward scores answers to this row, and not the row's own texts."""
        return self.needs_reward and self.ttrl is None

    def problems(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """(key, what is wrong with it) between options and `args`, each of which is right by itself."""
        yield from ()

    def whole_weights(self) -> Iterator[tuple[str, str]]:
        """(key, what it needs) of everything that needs whole weights or gradients in one process."""
        yield from ()

    # -- the plan --------------------------------------------------------------------------------------------------------

    def describe(self, steps: int | None, batch: int, averaged: bool = False) -> str:
        """The stage in the plan: steps of `batch` units, learning rate, options, and the reference of the KL.

        `averaged`: a strategy's average is the reference.
        """
        parts = [f"{'?' if steps is None else steps} steps of {batch} {self.unit}{self.repeats()}"]
        if self.uses_engine:
            parts.append(f"{many(self.group, 'rollout')} a prompt")
        parts = [*self.titles(), *parts, f"lr {self.value('learning_rate'):g}", *self.details()]
        beta = self.value("beta") if self.measures_kl else 0
        return ", ".join(parts + ([f"KL {beta:g} to {'the average' if averaged else self.reference}"] if beta else []))

    def titles(self) -> list[str]:
        """What stands before everything else."""
        return []

    def repeats(self) -> str:
        """How often the steps are taken, where that is more than once."""
        return ""

    def details(self) -> list[str]:
        """What its own options do."""
        return []
