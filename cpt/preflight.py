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
from cpt.spelling import unspellable

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
        check_spelling(task, chunk, prompts, tokenizer)
        lengths = map(len, models.encode_prompts(tokenizer, prompts, recipe))
        for row, length in zip(chunk, lengths, strict=True):
            if context is not None and length + longest_answer > context:
                raise UserError(
                    f"stream.{task.name}.data: row {row['id']} has a prompt of {length} tokens; with an answer of up to "
                    f"{longest_answer} that is more than the model's context of {context}: shorten or drop the row, or "
                    "lower max_completion_length"
                )


def check_spelling(task: TaskData, rows: list[dict], prompts: list, tokenizer) -> None:
    """Refuse a row with a character that the tokenizer would drop or garble."""
    texts = []
    for row, prompt in zip(rows, prompts, strict=True):
        texts.append((row, "prompt", prompt_text(prompt)))
        texts += [(row, field, prompt_text(row[field])) for field in ANSWERS if row.get(field)]
    for number, position in unspellable(tokenizer, [text for _, _, text in texts]):
        row, field, text = texts[number]
        raise UserError(
            f"stream.{task.name}.data: row {row['id']}: the tokenizer cannot spell {text[position]!r} (character "
            f"{position + 1} of {field} {text[:60]!r}): change the row, or take a model that knows it"
        )
