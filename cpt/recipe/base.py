"""Base classes of a recipe's parts: strict and frozen, every number bounded."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from cpt import user_code

if TYPE_CHECKING:
    from cpt.recipe.merge import Memory

MOST = 10**9  # of any number but a seed


class Bounded(BaseModel):
    """Numbers have bounds beyond which none is of use."""

    @field_validator("*")
    @classmethod
    def of_a_size(cls, value: Any, info: ValidationInfo) -> Any:
        for each in value if isinstance(value, tuple) else [value]:
            if isinstance(each, int | float) and info.field_name != "seed" and not -MOST <= each <= MOST:
                raise ValueError(
                    f"({each}) must be at most {MOST:,}" if each > 0 else f"({each}) must be at least {-MOST:,}"
                )
        return value


class Strict(Bounded):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Temperature = Annotated[float, Field(ge=0.01, le=100)]


def lm_eval_tasks(name: str) -> list[str]:
    """The tasks of `lm_eval:TASK,TASK`; none of any other name."""
    head, _, tasks = name.partition(":")
    return [each for each in tasks.split(",") if each] if head == "lm_eval" else []


class Kind(Strict):
    """One of several kinds. Every kind has the fields that `optional` names: None where it does not declare them."""

    optional: ClassVar[tuple[str, ...]] = ()
    implementation: ClassVar[Any]  # what does it: a module or module:name of cpt's, or the user's own class

    if TYPE_CHECKING:
        kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if "kind" in cls.model_fields:  # not what several kinds share
            for name in set(cls.optional) - cls.model_fields.keys():
                setattr(cls, name, None)

    @property
    def label(self) -> str:
        """The kind in the names of folders: of a user's own the class alone."""
        return self.kind.rpartition(":")[2]

    @classmethod
    def implemented(cls) -> Any:
        """What `implementation` names."""
        made = cls.implementation
        return user_code.named(made) if isinstance(made, str) else made


class SuiteSpec(Kind):
    """The base class of the options of a suite that is the user's own."""

    if TYPE_CHECKING:
        name: str | None


class StrategySpec(Kind):
    """The base class of every kind of strategy."""

    optional = ("adapters", "memory", "reference", "rollouts", "search", "serve")

    if TYPE_CHECKING:
        adapters: str | None
        memory: Memory | None
        reference: str | None
        rollouts: str | None
        search: tuple[float, ...] | None
        serve: str | None

    def state_bytes(self, trained: int, width: int) -> int:
        """Bytes that it keeps with every point, for `trained` bytes of trained weights of `width` bytes each."""
        return 0

    def whole_weights(self) -> Iterator[tuple[str, str]]:
        """(key, what it needs) of everything that needs whole weights or gradients in one process."""
        yield from ()

    def describe(self) -> str:
        """What was set, for the plan: `every 5, alpha 0.5`; empty where nothing was."""
        skipped = {"kind", "folder"}
        values = {name: getattr(self, name) for name, field in type(self).model_fields.items() if name not in skipped}
        set_ = {
            name: each
            for name, each in values.items()
            if each != type(self).model_fields[name].get_default(call_default_factory=True)
        }
        return ", ".join(f"{name} {written(value)}" for name, value in set_.items())


def written(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {written(each)}" for name, each in value.items()) + "}"
    return " ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)
