"""The JSON Schema of recipes, for editors: with `extends`, `defaults`, and the short forms that a file may use."""

from typing import Any

from cpt import user_code
from cpt.metric_kinds import GATES
from cpt.recipe import Recipe
from cpt.recipe.stages import STAGE_MODELS


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe's file, for editors: with `extends`, `defaults`, and the short forms of rewards.

    A recipe that extends another says only what it changes, and null takes a key out.
    """
    made = full_schema()
    definitions = made.pop("$defs")
    changes = changing(made)
    gone = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "null"}}
    tasks = changes["properties"]["stream"]["anyOf"][0]
    tasks.pop("minItems")
    tasks["items"] = {"anyOf": [tasks["items"], gone]}
    return {
        "$defs": definitions | {f"Changed{name}": changing(each) for name, each in definitions.items()},
        "if": {"required": ["extends"]},
        "then": changes,
        "else": made,
    }


def changing(schema: Any) -> Any:
    """The schema of a change to what `schema` describes: any key may be absent, or null."""
    if isinstance(schema, list):
        return [changing(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {"anyOf" if key == "oneOf" else key: changing(each) for key, each in schema.items()}
    changed.pop("required", None)
    changed.pop("discriminator", None)
    if isinstance(changed.get("$ref"), str):
        changed["$ref"] = changed["$ref"].replace("#/$defs/", "#/$defs/Changed")
    if isinstance(schema.get("properties"), dict):
        changed["properties"] = {name: or_null(each) for name, each in changed["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        changed["additionalProperties"] = or_null(changed["additionalProperties"])
    return changed


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the same values and null, with the same description."""
    described = {key: schema[key] for key in ("description",) if key in schema}
    return described | {
        "anyOf": [{key: value for key, value in schema.items() if key not in described}, {"type": "null"}]
    }


def full_schema() -> dict[str, Any]:
    """The schema of a recipe that stands alone."""
    made = Recipe.model_json_schema(mode="validation")
    definitions = made["$defs"]
    short = [{"type": "string"}, {"type": "array"}]
    for key in ("reward", "metric"):
        definitions["Task"]["properties"][key]["anyOf"] += short
    part = definitions["Part"]["properties"]["reward"]
    definitions["Part"]["properties"]["reward"] = {"description": part.pop("description"), "anyOf": [part, *short]}
    limit = {"anyOf": [{"$ref": "#/$defs/Gate"}, {"type": "number"}]}
    definitions["Evaluation"]["properties"]["gates"] |= {
        "additionalProperties": limit,
        "properties": {name: {"description": f"This is the gate on `{name}`.", **limit} for name in GATES},
    }
    own = definitions["Evaluation"]["properties"]["metrics"]
    own["items"] = {"anyOf": [own["items"], {"type": "string"}]}
    models = {model.__name__ for model in STAGE_MODELS}
    kinds = {definitions[name]["properties"]["kind"]["const"]: name for name in sorted(models)}
    for name in models:
        definitions[name]["required"] = ["kind"]  # the rest may come from `defaults`
    for definition in definitions.values():
        describe_choice(definition)
    made["properties"]["extends"] = {
        "type": "string",
        "description": "This recipe changes the one that is named here: a shipped recipe, or a file.",
    }
    made["properties"]["defaults"] = {
        "type": "object",
        "description": "These values hold for every stage of their kind, unless the stage gives its own.",
        "additionalProperties": False,
        "properties": {kind: stage_defaults(kind, definitions[name]) for kind, name in kinds.items()},
        "patternProperties": {
            user_code.NAME: {
                "type": "object",
                "description": "These values hold for every stage of this kind of your own, unless it gives its own.",
            }
        },
    }
    return made


def describe_choice(definition: dict[str, Any]) -> None:
    """A key that chooses this definition among others (`kind: sft`) is described as the definition itself is."""
    for key in ("kind", "source", "engine"):
        chosen = definition.get("properties", {}).get(key, {})
        if "const" in chosen:
            chosen.setdefault("description", definition["description"])


def stage_defaults(kind: str, stage: dict[str, Any]) -> dict[str, Any]:
    """The schema of `defaults.KIND`: all keys of the stage but `kind`."""
    properties = {key: value for key, value in stage["properties"].items() if key != "kind"}
    description = f"These values hold for every `{kind}` stage, unless it gives its own."
    return {"type": "object", "description": description, "additionalProperties": False, "properties": properties}
