"""The JSON Schema of recipes, for editors: with `extends`, `defaults`, and the short forms that a file may use."""

from typing import Any

from cpt.recipe import Recipe
from cpt.recipe_stages import STAGE_MODELS


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe's file, for editors: with `extends`, `defaults`, and the short forms of rewards."""
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
    made["required"] = []  # what is missing may come from the recipe that is extended
    return made


def without_kind(stage: dict[str, Any]) -> dict[str, Any]:
    properties = {key: value for key, value in stage["properties"].items() if key != "kind"}
    return {"type": "object", "additionalProperties": False, "properties": properties}
