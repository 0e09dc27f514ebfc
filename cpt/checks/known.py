"""What is known to hold without looking: the letter tasks on the embedded model, trained with arguments that TRL takes.

It keeps `cpt check quickstart` at half a second: rows cost tenths of a second to make, tokenizers and TRL's configs seconds
to import.
"""

from typing import Any

from cpt.recipe import Procedural, Recipe, Suite
from cpt.stages.arguments import ROLLOUT_KINDS, is_plain, value_of

CONTEXT = 128  # positions of the embedded model
AROUND = 10  # tokens of a prompt or a demonstration besides the letters, at most


def rows_are_known(recipe: Recipe, suites: dict[str, Suite]) -> bool:
    """Whether all rows are letters judged by `exact`: they have all that is asked of rows, and no two splits share one."""
    tasks = tasks_of(recipe, suites)
    judges = [judge.kind for task in tasks for judge in (task.reward, task.metric) if judge is not None]
    return set(judges) == {"exact"} and all(isinstance(task.data, Procedural) for task in tasks)


def tasks_of(recipe: Recipe, suites: dict[str, Suite]) -> list:
    return [*recipe.stream, *(task for suite in suites.values() for task in suite.tasks)]


def needs_model(recipe: Recipe, suites: dict[str, Suite]) -> bool:
    """Whether anything can be wrong that only the model's tokenizer, or the libraries that train, can show."""
    spec = recipe.model
    if spec.path != "tiny" or spec.chat_template or spec.chat_template_kwargs or recipe.adapter is not None:
        return True
    if not all(is_letters(recipe, task) for task in tasks_of(recipe, suites)):
        return True
    stages = [stage for task in recipe.stream for stage in task.stages]
    memories = [memory.args for each in recipe.strategies if (memory := getattr(each, "memory", None)) is not None]
    return not all(map(is_known, stages)) or not all(is_plain("sft", args) for args in memories)


def is_letters(recipe: Recipe, task: Any) -> bool:
    """Whether the task's rows are letters that fit the embedded model's context with all that may be said of them."""
    if not isinstance(task.data, Procedural) or task.stop:
        return False
    sampled = [
        value_of(stage.args, stage.kind, "max_completion_length")
        for stage in getattr(task, "stages", ())
        if stage.kind in ROLLOUT_KINDS
    ]
    answer = max(task.max_completion_length or recipe.evaluation.max_completion_length, *sampled, 0)
    demonstration = 2 * task.data.length + AROUND
    return task.data.length + AROUND + max(answer, demonstration) <= CONTEXT


def is_known(stage: Any) -> bool:
    """Whether nothing about the stage is left to the tokenizer, to another model, or to TRL."""
    if stage.kind == "self-distillation" or (stage.kind == "distill" and stage.teacher != "base"):
        return False
    return is_plain(stage.kind, stage.args) and stage.args.get("max_length", CONTEXT) in range(CONTEXT // 2, 10**9)
