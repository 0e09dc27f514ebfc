"""The JSON Schema of recipes, for editors: with `extends`, `defaults`, and the short forms that a file may use."""

from typing import Any

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
        nullable = {name: {"anyOf": [each, {"type": "null"}]} for name, each in changed["properties"].items()}
        changed["properties"] = nullable
    if isinstance(schema.get("additionalProperties"), dict):
        changed["additionalProperties"] = {"anyOf": [changed["additionalProperties"], {"type": "null"}]}
    return changed


def full_schema() -> dict[str, Any]:
    """The schema of a recipe that stands alone."""
    made = Recipe.model_json_schema(mode="validation")
    definitions = made["$defs"]
    short = [{"type": "string"}, {"type": "array"}]
    for owner in ("Task",):
        for key in ("reward", "metric"):
            definitions[owner]["properties"][key]["anyOf"] += short
    definitions["Part"]["properties"]["reward"] = {"anyOf": [definitions["Part"]["properties"]["reward"], *short]}
    made["properties"]["evaluation"] = {"$ref": "#/$defs/Evaluation"}
    definitions["Evaluation"]["properties"]["gates"]["additionalProperties"] = {
        "anyOf": [{"$ref": "#/$defs/Gate"}, {"type": "number"}]
    }
    models = {model.__name__ for model in STAGE_MODELS}
    kinds = {definitions[name]["properties"]["kind"]["const"]: name for name in sorted(models)}
    for name in models:
        definitions[name]["required"] = ["kind"]  # the rest may come from `defaults`
    made["properties"]["extends"] = {"type": "string", "description": "another recipe that this one changes"}
    made["properties"]["defaults"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {kind: without_kind(definitions[name]) for kind, name in kinds.items()},
    }
    return made


def without_kind(stage: dict[str, Any]) -> dict[str, Any]:
    properties = {key: value for key, value in stage["properties"].items() if key != "kind"}
    return {"type": "object", "additionalProperties": False, "properties": properties}
