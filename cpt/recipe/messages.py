"""What pydantic says of a recipe, in words for somebody who never heard of pydantic, each at its place in the file."""

import json
import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from cpt.errors import nearest, shown
from cpt.recipe.hints import PLACES, instead
from cpt.recipe.nodes import Mistakes
from cpt.recipe.yaml_reader import Node

BUILT_IN, USERS, LM_EVAL = (
    "<built-in>",
    "<user's>",
    "<lm-eval>",
)  # tags of unions (`recipe.user_kinds`), which are no keys
LINE = "line"  # the type of an error whose message is for the user already


def validate(schema: type[BaseModel], root: Node, mistakes: Mistakes, above: tuple[str, ...] = ()) -> Any:
    """The model, or None with the mistakes added. Strict as JSON is: no "5" for 5, no true for 1.

    `above` are the keys over `root`, for the messages.
    """
    plain = root.plain()
    try:
        return schema.model_validate_json(json.dumps(plain, default=str), strict=True)
    except ValidationError as error:
        messages: dict[tuple, list[str]] = {}
        for each in error.errors(include_url=False):
            if each["type"] == "too_short" and each["input"]:
                continue  # pydantic counts only what is right in itself
            each["loc"] = tuple(step for step in each["loc"] if step not in (BUILT_IN, USERS, LM_EVAL))
            messages.setdefault(real_path(each["loc"], plain), []).append(sentence(each, schema))
        for path, alternatives in messages.items():
            mistakes.add(root.at(path), ".".join(map(str, (*above, *path))), either(alternatives))
        return None


def either(messages: list[str]) -> str:
    """One sentence of those that the members of a union say of one value."""
    wanted = [each.removeprefix("must be ").partition(", not ")[0] for each in messages if each.startswith("must be ")]
    if len(wanted) < len(messages) or len(messages) == 1:
        return messages[0]
    return f"must be {' or '.join(dict.fromkeys(wanted))}, not {messages[0].partition(', not ')[2]}"


def real_path(loc: Sequence, plain: Any) -> tuple:
    """pydantic's `loc` without the names of union members that it puts in between."""
    path, here = [], plain
    for number, step in enumerate(loc):
        if isinstance(here, dict):
            last = number == len(loc) - 1
            tag = step in (here.get("kind"), here.get("source"), here.get("engine")) and step not in here
            if tag or (step not in here and not last):
                continue
            path.append(step)
            here = here.get(step)
        elif isinstance(here, list) and isinstance(step, int):
            path.append(step)
            here = here[step] if step < len(here) else None
    return tuple(path)


WANTED = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "list": "a list",
    "tuple": "a list",
    "dict": "a map",
    "model": "a map",
    "path": "a path",
}
SHORT_REWARD = "a reward's name, module:function, a list of these, or a map"


def sentence(error: dict, schema: type[BaseModel]) -> str:
    """A pydantic error in words for somebody who never heard of pydantic."""
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    loc = error["loc"]
    if kind == LINE:
        return context["line"]
    if kind == "extra_forbidden":
        return f"unknown key{instead(place_at(schema, loc[:-1]), str(loc[-1]), names_at(schema, loc[:-1]))}"
    if kind == "json_invalid":
        return f"holds what no file can ({error['ctx']['error']})"
    if kind == "missing":
        fields = [model.model_fields[loc[-1]] for model in models_at(schema, loc[:-1]) if loc[-1] in model.model_fields]
        allowed = typing.get_args(fields[0].annotation) if fields and is_literal(fields[0].annotation) else ()
        return "is missing" + (f": one of {', '.join(allowed)}" if allowed else "")
    if kind == "union_tag_not_found":
        allowed = dict.fromkeys(tag for model in models_at(schema, loc) for tag in tags(model))
        tag = context["discriminator"].strip("'")
        table = PLACES["rollouts" if tag == "engine" else "data" if tag == "source" else "stage"]
        other = next((key for key in given if table.get(key) == tag), None) if isinstance(given, dict) else None
        return f"{tag} is missing{f' (not `{other}`)' if other else ''}: one of {', '.join(allowed)}"
    if kind == "union_tag_invalid":
        allowed = [tag.strip("'") for tag in context["expected_tags"].split(", ")]
        tag = context["discriminator"].strip("'")
        place, given = kind_of(tag, loc), context["tag"]
        module, dot, name = given.rpartition(".")
        own = (
            f" (a class of your own is {module}:{name})"
            if dot and place in ("kind of stage", "kind of strategy")
            else ""
        )
        return f"no {tag} {shown(given)}{instead(place, given, allowed)}{own}"
    if kind == "literal_error":
        allowed = [each.strip("'") for each in context["expected"].replace(" or ", ", ").split(", ")]
        hint = nearest(given, allowed) if isinstance(given, str) else ""
        return f"must be one of {', '.join(allowed)}, not {shown(given)}{hint}"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"{shown(given)} has characters that cannot be used here: letters, digits, . _ - (or module:function)"
    if kind == "too_short":
        return "must not be empty"
    head = kind.rsplit("_", 1)[0]
    if kind.endswith(("_type", "_parsing")) and head.split("_")[0] in WANTED:
        wanted = WANTED[head.split("_")[0]]
        if wanted == "a map" and loc[-1] in ("reward", "metric"):
            wanted = SHORT_REWARD
        if wanted == "a map" and loc[-2:-1] == ("gates",):
            wanted = "a number, or a map with `limit`"
        return f"must be {wanted}, not {shown(given)}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, not {shown(given)}"


def place_at(schema: type[BaseModel], loc: Sequence) -> str:
    """What the hints call the map at `loc`."""
    options = models_at(schema, loc)
    fields = {name for each in options for name in each.model_fields}
    by_field = {"args": "stage", "source": "data", "engine": "rollouts"}
    of_field = next((place for name, place in by_field.items() if name in fields), None)
    return of_field or next((each.__name__ for each in options), "")


def kind_of(tag: str, loc: Sequence) -> str:
    """What the hints call the words that may stand as `tag` (kind, source or engine) in the map at `loc`."""
    lists = {"stages": "kind of stage", "strategies": "kind of strategy"}
    kinds = next((lists[step] for step in reversed(loc) if step in lists), "kind of reward")
    return kinds if tag == "kind" else tag


def models_at(schema: type[BaseModel], loc: Sequence) -> list[type[BaseModel]]:
    """The models that a map at `loc` may be of."""
    here: Any = schema
    for step in loc:
        options = [each for each in members(here) if isinstance(each, type) and issubclass(each, BaseModel)]
        fields = [each.model_fields[step] for each in options if isinstance(step, str) and step in each.model_fields]
        tagged = [each for each in options if step in tags(each)]
        here = tagged[0] if tagged else fields[0].annotation if fields else here
    return [each for each in members(here) if isinstance(each, type) and issubclass(each, BaseModel)]


def names_at(schema: type[BaseModel], loc: Sequence) -> list[str]:
    """The keys that a map at `loc` may have."""
    options = models_at(schema, loc)
    names = [name for each in options for name in each.model_fields]
    return [*names, "extends", "defaults"] if options == [schema] and "stream" in names else list(dict.fromkeys(names))


def members(annotation: Any) -> list:
    """The classes within unions, tuples, maps and annotations."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType, tuple, list, dict):
        return [each for part in typing.get_args(annotation) for each in members(part)]
    return [annotation]


def is_literal(annotation: Any) -> bool:
    return typing.get_origin(annotation) is typing.Literal


def tags(model: type[BaseModel]) -> tuple:
    """The values of a union member's discriminator."""
    info = next((model.model_fields[name] for name in ("kind", "source", "engine") if name in model.model_fields), None)
    return typing.get_args(info.annotation) if info is not None else ()
