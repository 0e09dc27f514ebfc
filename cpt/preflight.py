"""What must hold before the first step is taken: every row can be spelt, rendered and answered within the context.

A mistake found here costs seconds; found in task 7 it costs a night.
"""

from itertools import islice

from cpt import models
from cpt.data.rows import prompt_of, prompt_text
from cpt.data.stream import Stream, TaskData
from cpt.errors import UserError
from cpt.recipe import Recipe
from cpt.rewards.verifiers import COMPARES, kinds
from cpt.spelling import first_unspellable

CHUNK = 1000
ANSWERS = ("answer", "demonstration", "completion", "chosen", "rejected", "messages")


def check_rows(recipe: Recipe, stream: Stream, tokenizer, context: int | None) -> None:
    """Check every prompt of the run against the model's tokenizer, chat template and context.

    Raises:
        UserError: naming the task, the row, and what to do.
    """
    for task in stream.tasks:
        longest_answer = max(
            [stage.args.get("max_completion_length", 256) for stage in task.spec.stages if stage.kind == "rlvr"],
            default=0,
        )
        check_task(recipe, task, task.train, tokenizer, context, longest_answer)
    for task in (*stream.tasks, *(task for suite in stream.suites.values() for task in suite)):
        check_judged(task)
        limit = task.spec.max_completion_length or recipe.evaluation.max_completion_length
        check_task(recipe, task, task.eval, tokenizer, context, limit)


def check_judged(task: TaskData) -> None:
    """Every evaluation row has a prompt to ask and, for a verifier that compares, the answer to compare with."""
    wanted = ["prompt", *(["answer"] if COMPARES & set(kinds(task.spec.verifier.model_dump())) else [])]
    for row in task.eval:
        lacking = [name for name in wanted if row.get(name) is None]
        if lacking:
            there = ", ".join(name for name in row if name != "id")
            raise UserError(
                f"stream.{task.name}.data.eval: row {row['id']} has no {' and no '.join(lacking)} (it has {there}); the "
                f"verifier {task.spec.verifier.kind} needs it: name the column with `columns`, e.g. {{answer: solution}}"
            )


def check_task(recipe: Recipe, task: TaskData, rows, tokenizer, context: int | None, longest_answer: int) -> None:
    """Check the rows of one split of one task; `longest_answer` is what will be generated after each prompt."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK)):
        prompts = [prompt_of(row) for row in chunk]
        if any(not isinstance(prompt, str) for prompt in prompts) and tokenizer.chat_template is None:
            raise UserError(
                f"stream.{task.name}.data: rows are conversational ({chunk[0]['id']}), but the tokenizer of "
                f"{recipe.model.path} has no chat template: give one as model.chat_template, or use plain prompts"
            )
        for row, prompt in zip(chunk, prompts, strict=True):
            check_spelling(task, row, prompt, tokenizer)
        lengths = map(len, models.encode_prompts(tokenizer, prompts, recipe))
        for row, length in zip(chunk, lengths, strict=True):
            if context is not None and length + longest_answer > context:
                raise UserError(
                    f"stream.{task.name}.data: row {row['id']} has a prompt of {length} tokens; with an answer of up to "
                    f"{longest_answer} that is more than the model's context of {context}: shorten or drop the row, or "
                    "lower max_completion_length"
                )


def check_spelling(task: TaskData, row: dict, prompt, tokenizer) -> None:
    """Refuse a row with a character that the tokenizer would drop or garble."""
    texts = {"prompt": prompt_text(prompt)} | {k: prompt_text(row[k]) for k in ANSWERS if row.get(k)}
    for field, text in texts.items():
        found = first_unspellable(tokenizer, text)
        if found is not None:
            position, character = found
            raise UserError(
                f"stream.{task.name}.data: row {row['id']}: the tokenizer cannot spell {character!r} (character "
                f"{position + 1} of {field} {text[:60]!r}): change the row, or take a model that knows it"
            )
