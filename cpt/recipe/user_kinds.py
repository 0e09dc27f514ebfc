"""Kinds of the user's own: `kind: my_module:MyClass` with `options`, for strategies, stages and suites.

The class is a subclass of its contract (`FAMILIES`) and has `Options`, a pydantic model like those of the built-in kinds: its
fields are what may stand under `options`, and its facts count as theirs do. What a recipe then holds is such a model, with
the options as its own fields (`spec.strength`), and `kind` and `folder`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationError,
    create_model,
    field_validator,
    model_serializer,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from cpt import user_code
from cpt.errors import UserError, shown
from cpt.recipe.base import Strict
from cpt.recipe.messages import BUILT_IN, LINE, USERS, sentence


class UserKind(Strict):
    """A class of your own, in a module beside the recipe or on the Python path (docs/extending.md)."""

    kind: str = Field(description="This is the class, as module:Class.", json_schema_extra={"pattern": user_code.NAME})
    options: dict[str, Any] = Field({}, description="These are the fields of the class's `Options`.")
    folder: Path | None = Field(
        None, description="The module is looked for in this folder first; if null, in the recipe's own folder."
    )

    @field_validator("kind")
    @classmethod
    def names_a_class(cls, value: str) -> str:
        module, _, name = value.partition(":")
        if module.endswith(".py"):
            raise ValueError(f"names a module, and no file: write {module.removesuffix('.py')}:{name}")
        if not re.match(user_code.NAME, value):
            raise ValueError(
                f"{shown(value)} names no class: write module:Class (folder.module:Class of one in a folder)"
            )
        return value


@dataclass(frozen=True)
class Family:
    """What a user's class must be, to stand in one place of a recipe.

    Attributes:
        what: what messages call it.
        contract: its base class, as module:Class, which is imported only where a recipe has a kind of the user's own.
        base: the base class of its `Options`.
        methods: those that it must have.
        shape: the keys that it has in a recipe.
        problem: what is wrong with the facts of its `Options`; None where they are right.
    """

    what: str
    contract: str
    base: type[BaseModel]
    methods: tuple[str, ...] = ()
    shape: type[UserKind] = UserKind
    problem: Callable[[type[BaseModel]], str | None] = lambda options: None


class Bound(BaseModel):
    """Written as recipes write it: what is no key of the place stands under `options`."""

    code: ClassVar[user_code.Code]
    keys: ClassVar[tuple[str, ...]]

    @model_serializer(mode="wrap")
    def nested(self, handler) -> dict[str, Any]:
        flat = handler(self)
        return {name: flat.pop(name) for name in self.keys if name in flat} | {"options": flat}


def open_to_users(built_in: Any, family: Family) -> Any:
    """The annotation of a place of the recipe that takes built-in kinds, and the user's own."""
    users = PlainValidator(partial(validated, family), json_schema_input_type=family.shape)
    return Annotated[Annotated[built_in, Tag(BUILT_IN)] | Annotated[Any, users, Tag(USERS)], Discriminator(whose)]


def whose(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return USERS if isinstance(kind, str) and ":" in kind else BUILT_IN


def validated(family: Family, value: Any) -> BaseModel:
    """What the recipe holds for a kind of the user's own. Raises ValidationError, with messages for the user."""
    if isinstance(value, BaseModel):
        return value
    outside = {name: each for name, each in value.items() if name != "options" or not isinstance(each, Mapping)}
    try:
        family.shape.model_validate_json(json.dumps(outside, default=str), strict=True)
        made = bound(family, value["kind"], value.get("folder"))
    except ValidationError as error:
        raise in_users_words(error, family.shape, ()) from error
    except UserError as error:
        raise errors_at([(("kind",), str(error), value["kind"])]) from error
    options = dict(value.get("options", {}))
    if outside_keys := [name for name in options if name in made.keys]:
        message = f"belongs beside `options`, or is not an option: remove {outside_keys[0]}"
        raise errors_at([(("options", outside_keys[0]), message, options[outside_keys[0]])])
    try:
        flat = {name: each for name, each in value.items() if name != "options"} | options
        return made.model_validate_json(json.dumps(flat, default=str), strict=True)
    except ValidationError as error:
        raise in_users_words(error, made, made.keys) from error
    except Exception as error:  # of whatever class: the Options' own validators
        line = f"{user_code.line_of(error, made.code.files)}: {user_code.why(error)}"
        raise errors_at([(("options",), line, options)]) from error


def errors_at(problems: Iterable[tuple[tuple, str, Any]]) -> ValidationError:
    """An error with messages for the user: (key, message, value) of each."""
    details = []
    for loc, message, given in problems:
        line = PydanticCustomError(LINE, "{line}", {"line": message})
        details.append(InitErrorDetails(type=line, loc=loc, input=given))
    return ValidationError.from_exception_data("recipe", details)


def in_users_words(error: ValidationError, schema: type[BaseModel], keys: tuple[str, ...]) -> ValidationError:
    """The same errors in words for the user; those of fields that are no keys of the place are under `options`."""
    reworded = []
    for each in error.errors(include_url=False):
        loc, text = each["loc"], sentence(each, schema)
        if not keys and each["type"] == "extra_forbidden":
            text = (
                f"unknown key; there are: {', '.join(schema.model_fields)} (the class's own options go under `options`)"
            )
        reworded.append((loc if not keys or (loc[:1] and loc[0] in keys) else ("options", *loc), text, each["input"]))
    return errors_at(reworded)


def bound(family: Family, kind: str, folder: str | Path | None) -> type[Any]:
    """The model of a kind of the user's own. Raises UserError where there is no such class, or it is not of the contract."""
    code = user_code.load(kind, folder)
    contract = user_code.named(family.contract)
    if not (isinstance(code.target, type) and issubclass(code.target, contract)) or code.target is contract:
        raise UserError(
            f"{code.place}: {kind.partition(':')[2]} is no {family.what}: let it be a subclass of "
            f"{family.contract.replace(':', '.')}"
        )
    lacking = [name for name in family.methods if getattr(code.target, name) is getattr(contract, name)]
    if lacking:
        raise UserError(f"{code.place}: a {family.what} must have its own `{lacking[0]}`")
    options = code.target.Options
    if not (isinstance(options, type) and issubclass(options, family.base)):
        base = f"{family.contract.partition(':')[0]}.{family.base.__name__}"
        raise UserError(f"{code.place}: its Options must be a subclass of {base}")
    known = {name for each in options.__mro__ if each.__module__.startswith("cpt.") for name in fields_of(each)}
    reserved = {*family.shape.model_fields, "options", *options.optional} - known
    taken = [each for each in options.model_fields if each in reserved]
    if taken:
        raise UserError(f"{code.place}: its Options have a field `{taken[0]}`, which recipes use: give it another name")
    if (problem := family.problem(options)) is not None:
        raise UserError(f"{code.place}: its Options {problem}")
    return model_of(family, code)


def fields_of(model: type) -> tuple[str, ...]:
    return tuple(getattr(model, "model_fields", ()))


def model_of(family: Family, code: user_code.Code) -> type[Any]:
    """One model for a class, so that equal recipes are equal."""
    key = code.target, code.path, code.folder
    if key not in MODELS:
        shape, options = family.shape.model_fields, code.target.Options
        more = {name: (field.annotation, field) for name, field in shape.items() if name not in ("kind", "options")}
        more = {name: each for name, each in more.items() if name not in options.model_fields}
        made = create_model(code.target.__name__, __base__=(Bound, options), kind=(Literal[code.path], ...), **more)
        made.code, made.keys, made.implementation = (
            code,
            tuple(each for each in shape if each != "options"),
            code.target,
        )
        MODELS[key] = made
    return MODELS[key]


MODELS: dict[tuple[type, str, Path | None], type[Any]] = {}


def code_of(recipe: Any) -> list[user_code.Code]:
    """The user's own strategies, stages and suites that a recipe names."""
    stages = (stage for task in recipe.stream for stage in task.stages)
    named = (*recipe.strategies, *stages, *recipe.evaluation.suites)
    return [each.code for each in named if isinstance(each, Bound)]


def code_hashes(recipe: Any) -> dict[str, dict[str, str]]:
    """{module:name: {file: SHA-256}} of them."""
    files: dict[str, dict[str, str]] = {}
    for code in code_of(recipe):
        files.setdefault(code.path, {}).update(code.digests())
    return files
