"""What must hold before the first step is taken: every row can be spelt, rendered, judged, and answered within the context.

A mistake found here costs seconds; found in task 7 it costs a night.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from cpt import models, ranks
from cpt.data.memory import memories, sft_forms
from cpt.data.rows import STAGE_ROWS, Row, contents, in_context
from cpt.data.stream import Stream, TaskData, stage_forms
from cpt.errors import UserError
from cpt.plan import NO_VALIDATION, searches
from cpt.recipe import Recipe
from cpt.recipe_stages import Sft
from cpt.rewards.answers import unreadable
from cpt.rewards.verifiers import compares, kinds
from cpt.spelling import unspellable
from cpt.stages import teacher
from cpt.stages.arguments import CONFIGS, ROLLOUT_KINDS, value_of

CHUNK = 1000
WRITTEN = ("prompt", "answer", "demonstration", "completion", "chosen", "rejected", "messages")


def check_processes(recipe: Recipe) -> None:
    """Raises UserError where a stage cannot run in as many processes as there are."""
    for task in recipe.stream:
        for index, stage in enumerate(task.stages):
            if getattr(stage, "dynamic_sampling", None) is not None and ranks.world_size() > 1:
                raise UserError(
                    f"stream.{task.task}.stages.{index}: dynamic_sampling works in one process, not in "
                    f"{ranks.world_size()}: take it out (filter works in several), or start without a launcher"
                )
            if getattr(stage, "snr_step", None) is not None and (
                value_of(stage.args, stage.kind, "gradient_accumulation_steps") * ranks.world_size() < 2
            ):
                raise UserError(
                    f"stream.{task.task}.stages.{index}.snr_step: the variance of a step's gradient needs two micro-batches, "
                    "and there is one: set args.gradient_accumulation_steps to 2 or more (and halve "
                    "per_device_train_batch_size to keep the batch), or start more processes"
                )


def check_teachers(recipe: Recipe, base: Path) -> int | None:
    """The fewest positions that a distill stage's teacher was made for (None: no stage has one, or none says).

    Raises:
        UserError: a teacher that is not there, or does not speak the tokens of the student in `base`.
    """
    stages = [(f"stream.{task.task}.stages.{i}", each) for task in recipe.stream for i, each in enumerate(task.stages)]
    known = [teacher.check(recipe, each, base, key) for key, each in stages if each.kind == "distill"]
    return min((each for each in known if each is not None), default=None)


def check_rows(recipe: Recipe, stream: Stream, tokenizer, context: int | None) -> None:
    """Check every row of the run against its stages, its verifier, and the model's tokenizer, chat template and context.

    Raises:
        UserError: naming the task, the row, and what to do.
    """
    for task in stream.tasks:
        check_stages(task)
        rollout = max(longest_answer(recipe, task, stage) for stage in task.spec.stages)
        key = f"stream.{task.name}.data"
        for chunk in check_split(recipe, key, task.train, tokenizer, context, rollout):
            for index, stage in enumerate(task.spec.stages):
                check_trained(recipe, key, f"stream.{task.name}.stages.{index}", stage, chunk, tokenizer, context)
                check_contexts(recipe, key, f"stream.{task.name}.stages.{index}", stage, chunk, tokenizer, context)
    check_memories(recipe, stream, tokenizer, context)
    asked = [(f"stream.{task.name}.data", task) for task in stream.tasks]
    asked += [(f"suite {name}, task {task.name}", task) for name, tasks in stream.suites.items() for task in tasks]
    for key, task in asked:
        check_judged(f"{key}.eval" if key.endswith("data") else key, task.eval, task.spec.verifier)
        limit = task.spec.max_completion_length or recipe.evaluation.max_completion_length
        for rows in (task.eval, task.validation):
            for _ in check_split(recipe, key, rows, tokenizer, context, limit):
                pass


def check_memories(recipe: Recipe, stream: Stream, tokenizer, context: int | None) -> None:
    """What is kept of every task that another follows can be trained on. Raises UserError."""
    for place, memory in memories(recipe).items():
        stage = Sft(kind="sft", args=memory.args)
        forms = sft_forms(stream.tasks[:-1], recipe.data.seed, memory.rows, place)
        for name, found in groupby(forms, lambda each: each[0].name):
            rows = [row for _, row, _ in found]
            check_trained(recipe, f"stream.{name}.data", place, stage, rows, tokenizer, context)


def check_validation(recipe: Recipe, stream: Stream) -> None:
    """Where a strategy searches on validation rows: every task has some, and they can be judged. Raises UserError."""
    searching = searches(recipe)
    for task in stream.tasks if searching else ():
        if len(task.validation) == 0:
            raise UserError(f"stream.{task.name}.data.validation: {NO_VALIDATION.format(searching[0])}")
        check_judged(f"stream.{task.name}.data.validation", task.validation, task.spec.verifier)


LONGEST = "max_completion_length"


def longest_answer(recipe: Recipe, task: TaskData, stage: Any) -> int:
    """The tokens that a stage may sample after a training prompt and train on."""
    if stage.kind in ROLLOUT_KINDS:
        return value_of(stage.args, stage.kind, LONGEST)
    if stage.kind == "rejection":
        return task.spec.max_completion_length or recipe.evaluation.max_completion_length
    return 0


# -- what stages and verifiers need ----------------------------------------------------------------------------------------


UNJUDGED = ("sft", "self-distillation", "distill")  # they train on no reward


def check_stages(task: TaskData) -> None:
    """Every stage can take every training row; one that trains on rewards has what the reward compares with."""
    unlabelled = {stage.kind for stage in task.spec.stages if getattr(stage, "ttrl", None) is not None}
    labelled = {stage.kind for stage in task.spec.stages if getattr(stage, "ttrl", None) is None}
    for kind in dict.fromkeys(stage.kind for stage in task.spec.stages):
        for _ in stage_forms(task, kind):
            pass
        if kind not in UNJUDGED and kind not in unlabelled - labelled:
            judged = (row for row in task.train if kind != "dpo" or row.get("chosen") is None)
            check_judged(f"stream.{task.name}.data.train", judged, task.spec.reward or task.spec.verifier)


def check_judged(key: str, rows: Iterable[Row], verifier: Any) -> None:
    """Every row has a prompt to ask and what the verifier judges by: the answer, or the entry of reasoning-gym."""
    spec = verifier.model_dump()
    used = kinds(spec)
    wanted = ["prompt", *(["answer"] if compares(spec) else [])]
    answers: dict[str, list[str]] = {}  # {answer: ids of its rows}
    for row in rows:
        lacking = [name for name in wanted if row.get(name) is None]
        there = ", ".join(name for name in row if name != "id")
        if lacking:
            raise UserError(
                f"{key}: row {row['id']} has no {' and no '.join(lacking)} (it has {there}); the verifier {verifier.kind} "
                "needs it: name the column with `columns`, e.g. {answer: solution}"
            )
        if row.get("answer") is not None:
            answers.setdefault(row["answer"], []).append(row["id"])
        if "reasoning_gym" in used and not {"reasoning_gym", "entry"} <= set(row.get("metadata") or {}):
            raise UserError(
                f"{key}: row {row['id']} has no entry of reasoning-gym's in its metadata (it has {there}); the verifier "
                "reasoning_gym needs it: take `source: reasoning_gym`, or another verifier"
            )
    wrong = dict(unreadable(spec, answers))
    if wrong:
        answer, why = next(iter(wrong.items()))
        number = sum(len(answers[each]) for each in wrong)
        others = f" ({number} rows have such answers)" if number > 1 else ""
        raise UserError(
            f"{key}: row {answers[answer][0]}: no completion could match its answer {answer[:60]!r}: {why}{others}"
        )


# -- what the model needs --------------------------------------------------------------------------------------------------


def check_split(
    recipe: Recipe, key: str, rows: Sequence[Row], tokenizer, context: int | None, longest_answer: int
) -> Iterator[list[Row]]:
    """Check the rows of one split of one task, and give them on in chunks; `longest_answer` is what follows each prompt."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK)):
        chats = [row for row in chunk if row.get("messages") or not isinstance(row["prompt"], str)]
        if chats and tokenizer.chat_template is None:
            raise UserError(
                f"{key}: rows are conversational ({chats[0]['id']}), but the tokenizer of {recipe.model.path} has no chat "
                "template: give one as model.chat_template, or use plain prompts"
            )
        check_spelling(key, chunk, tokenizer)
        prompts = [(row, "prompt", row["prompt"]) for row in chunk if row.get("prompt") is not None]
        for (row, *_), length in zip(prompts, lengths(recipe, key, prompts, tokenizer), strict=True):
            if context is not None and length + longest_answer > context:
                raise UserError(
                    f"{key}: row {row['id']} has a prompt of {length} tokens; with an answer of up to {longest_answer} "
                    f"that is more than the model's context of {context}: shorten or drop the row, or lower {LONGEST}"
                )
        yield chunk


def check_spelling(key: str, rows: list[Row], tokenizer) -> None:
    """Refuse a row with a character that the tokenizer would drop or garble."""
    texts = [(row, name, text) for row in rows for name in WRITTEN if row.get(name) for text in contents(row[name])]
    check_texts(key, texts, tokenizer)


def check_texts(key: str, texts: list[tuple[Row, str, str]], tokenizer) -> None:
    """Refuse the first of (row, field, text) that the tokenizer cannot spell."""
    for number, position in unspellable(tokenizer, [text for _, _, text in texts]):
        row, field, text = texts[number]
        raise UserError(
            f"{key}: row {row['id']}: the tokenizer cannot spell {text[position]!r} (character {position + 1} of {field} "
            f"{text[:60]!r}): change the row, or take a model that knows it"
        )


def check_contexts(recipe: Recipe, key: str, place: str, stage: Any, rows: list[Row], tokenizer, context: int | None):
    """Refuse a row whose demonstration a self-distillation's teacher could not be given: unspellable, or too long."""
    if stage.kind != "self-distillation":
        return
    asked = []
    for row in rows:
        try:
            asked.append((row, "teacher's context", in_context(row, stage.template)))
        except ValueError as error:
            raise UserError(f"{key}: row {row['id']}: {error}: a self-distillation stage cannot use it") from error
    check_texts(
        f"{place}.template, with {key}",
        [(row, name, contents(text)[-1]) for row, name, text in asked],
        tokenizer,
    )
    answer = value_of(stage.args, stage.kind, LONGEST)
    for (row, *_), length in zip(asked, lengths(recipe, key, asked, tokenizer), strict=True):
        if context is not None and length + answer > context:
            raise UserError(
                f"{key}: row {row['id']}: with its demonstration the teacher is asked {length} tokens; with an answer of up "
                f"to {answer} that is more than the model's context of {context}: shorten or drop the row, or lower {LONGEST}"
            )


def check_trained(recipe: Recipe, key: str, place: str, stage: Any, rows: list[Row], tokenizer, context: int | None):
    """Refuse a row that a stage would train on only in part, unless the recipe itself says where to cut (`max_length`)."""
    texts = [each for row in rows for each in trained_texts(row, stage.kind, tokenizer.eos_token)]
    cut = value_of(stage.args, stage.kind, "max_length") if texts else None
    chosen = "max_length" in stage.args
    for (row, field, _), length in zip(texts, lengths(recipe, key, texts, tokenizer, answered=True), strict=True):
        kept = min(length, cut) if chosen and cut else length
        if context is not None and kept > context:
            raise UserError(
                f"{key}: row {row['id']} has {length} tokens with its {field}, more than the model's context of {context}: "
                f"shorten or drop the row, or let args.max_length of {place} cut it"
            )
        if not chosen and cut and length > cut:
            raise UserError(
                f"{key}: row {row['id']} has {length} tokens with its {field}, and {CONFIGS[stage.kind][2]} cuts at {cut} by "
                f"default: say where to cut with args.max_length of {place} (null: nowhere), or drop the row"
            )


def trained_texts(row: Row, kind: str, end: str) -> Iterator[tuple[Row, str, str | list]]:
    """(row, field, text or conversation) of what an sft or dpo stage trains on, the end of sequence included."""
    form = STAGE_ROWS[kind](row)
    if "messages" in form:
        yield row, "messages", form["messages"]
    for name in ("completion", "chosen", "rejected"):
        if name in form:
            field = "demonstration" if name == "completion" and row.get("demonstration") is not None else name
            whole = form["prompt"] + form[name]
            yield row, field, whole + end if isinstance(whole, str) else whole


def lengths(
    recipe: Recipe, key: str, texts: list[tuple[Row, str, Any]], tokenizer, answered: bool = False
) -> list[int]:
    """The tokens of each (row, field, text or conversation); names the row that the chat template refuses."""
    try:
        return [len(ids) for ids in models.encode_prompts(tokenizer, [text for *_, text in texts], recipe, answered)]
    except TemplateError as error:
        if len(texts) == 1:
            row, field, _ = texts[0]
            said = " ".join(str(error).split())
            raise UserError(f"{key}: row {row['id']}: the chat template refuses its {field}: {said}") from error
    return [length for each in texts for length in lengths(recipe, key, [each], tokenizer, answered)]
