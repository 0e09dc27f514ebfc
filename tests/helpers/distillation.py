"""Recipes of distillation, with a teacher or with the model itself."""

from helpers.recipes import recipe

KINDS = ("self-distillation", "distill")
LORA = {"adapter": {"kind": "lora", "r": 4, "target_modules": "all-linear"}}


def small(kind: str, args: dict | None = None, tasks: tuple[str, ...] = ("reverse",), **beside) -> dict:
    content = recipe(kind, tasks=tasks, evaluate=4)
    for task in content["stream"]:
        task["data"]["demonstration"] = "terse"
        task["stages"][0] |= beside
        task["stages"][0]["args"] |= args or {}
    return content
