"""What is known to hold without looking: the letter tasks on the built-in toy model, trained with arguments that TRL takes.

It keeps `cpt check quickstart` at half a second: rows cost tenths of a second to make, tokenizers and TRL's configs seconds
to import.
"""

from typing import Any

from cpt.data.procedural import DEMONSTRATIONS, row
from cpt.recipe import Procedural, Recipe, Suite
from cpt.recipe.trl_arguments import is_plain
from cpt.recipe.user_kinds import Bound
from cpt.skills import alphabet

CHATS = "chat (its rows are chats)"
OWN_ANSWERS = "example  none: the model's own answers are trained on"

CONTEXT = 128  # positions of the built-in toy model
AROUND = 10  # tokens of a prompt or a demonstration besides the letters, at most


def rows_are_known(recipe: Recipe, suites: dict[str, Suite]) -> bool:
    """Whether all rows are letters scored by `exact`: they have all that is asked of rows, and no two splits share one."""
    tasks = tasks_of(recipe, suites)
    kinds = [verifier.kind for task in tasks for verifier in (task.reward, task.metric) if verifier is not None]
    return set(kinds) == {"exact"} and all(isinstance(task.data, Procedural) for task in tasks)


def tasks_of(recipe: Recipe, suites: dict[str, Suite]) -> list:
    return [*recipe.stream, *(task for suite in suites.values() for task in suite.tasks)]


def needs_model(recipe: Recipe, suites: dict[str, Suite]) -> bool:
    """Whether anything can be wrong that only the model's tokenizer, or the libraries that train, can show."""
    spec = recipe.model
    named = (spec.chat_template, spec.chat_template_kwargs, spec.attn_implementation, recipe.adapter)
    if spec.path != "tiny" or any(named):
        return True
    if not all(is_letters(recipe, task) for task in tasks_of(recipe, suites)):
        return True
    stages = [stage for task in recipe.stream for stage in task.stages]
    memories = [each.memory.args for each in recipe.strategies if each.memory is not None]
    return not all(map(is_known, stages)) or not all(is_plain(args) for args in memories)


def is_letters(recipe: Recipe, task: Any) -> bool:
    """Whether the task's rows are letters that fit the built-in toy model's context with all that may be said of them."""
    if not isinstance(task.data, Procedural) or task.stop or task.system is not None or task.prompt == "raw":
        return False
    sampled = [stage.longest_answer(0) for stage in task.stages if stage.uses_engine]
    evaluated = task.max_completion_length or recipe.evaluation.max_completion_length
    if any(stage.teaches for stage in task.stages):
        taught = DEMONSTRATIONS[task.data.demonstration]("a" * task.data.length, "a" * task.data.length)
        limit = (
            min([evaluated, *sampled])
            if any(stage.teaches and stage.uses_engine for stage in task.stages)
            else evaluated
        )
        if len(taught) + 1 > limit:  # the check says that it could not be given whole
            return False
    demonstration = 2 * task.data.length + AROUND
    return task.data.length + AROUND + max(evaluated, *sampled, demonstration) <= CONTEXT


def is_known(stage: Any) -> bool:
    """Whether nothing about the stage is left to the tokenizer, to another model, or to TRL."""
    if stage.asks_tokenizer or isinstance(stage, Bound):
        return False
    return is_plain(stage.args) and stage.args.get("max_length", CONTEXT) in range(CONTEXT // 2, 10**9)


# -- samples ---------------------------------------------------------------------------------------------------------------


def letters_samples(recipe: Recipe, suites: dict[str, Suite]) -> dict[str, list[str]]:
    """What `samples.samples` gives where `needs_model` says no, without a tokenizer: its template writes = after a question
    and the end of sequence after an answer."""
    tasks = {task.task: task for task in recipe.stream}
    tasks |= {f"{name}/{task.task}": task for name, suite in suites.items() for task in suite.tasks}
    return {name: letters_sample(task) for name, task in tasks.items()}


def letters_sample(task: Any) -> list[str]:
    """Of the first letters in their order: to draw the task's own rows would take a tenth of a second."""
    letters = alphabet(task.data.name)
    text = (letters * task.data.length)[: task.data.length]
    made = row(task.data.name, text, task.data.demonstration)
    prompt = f"{made['prompt'][0]['content']}="
    lines = [f"prompt   {CHATS}: {prompt!r}"]
    taught = any(stage.teaches and stage.row_form != "preference" for stage in task.stages)
    if taught:
        lines.append(f"example  demonstration: {prompt!r} + {made['demonstration'] + '<eos>'!r}")
    return lines if taught or not task.stages else [*lines, OWN_ANSWERS]
