"""Whether every row fits the model: its tokenizer can spell it, its template render it, its context hold it.

What a stage trains on is not cut unless the recipe says where.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from jinja2 import TemplateError

from cpt import models
from cpt.checks.findings import Findings
from cpt.data.memory import memories, sft_forms
from cpt.data.rows import STAGE_ROWS, Row, contents, demonstrated_row, in_context
from cpt.data.stream import Stream, TaskData
from cpt.preflight import evaluated
from cpt.recipe import Recipe
from cpt.recipe_stages import Sft
from cpt.spelling import unspellable
from cpt.stages.arguments import CONFIGS, ROLLOUT_KINDS, value_of

CHUNK = 1000
WRITTEN = ("prompt", "answer", "demonstration", "completion", "chosen", "rejected", "messages")
LONGEST = "max_completion_length"


@dataclass(frozen=True)
class TokenChecks:
    """Checks rows against a tokenizer and the `context` (positions; None: unknown) of a model, and notes what is wrong."""

    recipe: Recipe
    tokenizer: Any
    context: int | None
    findings: Findings

    def check(self, stream: Stream) -> None:
        """All rows of the run: those that are trained on and those that are evaluated."""
        for task in stream.tasks:
            rollout = max(longest_answer(self.recipe, task, stage) for stage in task.spec.stages)
            key = f"stream.{task.name}.data"
            for chunk in self.check_split(key, task.train, rollout):
                for index, stage in enumerate(task.spec.stages):
                    self.check_trained(key, f"stream.{task.name}.stages.{index}", stage, chunk)
                    self.check_contexts(key, f"stream.{task.name}.stages.{index}", stage, chunk)
        self.check_memories(stream)
        for key, task in evaluated(stream):
            with self.findings.collecting():
                models.answer_stops(self.tokenizer, task.spec)
            limit = task.spec.max_completion_length or self.recipe.evaluation.max_completion_length
            for rows in (task.eval, task.validation):
                for _ in self.check_split(key, rows, limit):
                    pass

    def check_split(self, key: str, rows: Sequence[Row], longest_answer: int) -> Iterator[list[Row]]:
        """Check the prompts and the spelling of the rows of one split, and give the rows on in chunks.

        `longest_answer` is the number of tokens that may follow each prompt.
        """
        iterator = iter(rows)
        while chunk := list(islice(iterator, CHUNK)):
            chats = [row for row in chunk if row.get("messages") or not isinstance(row["prompt"], str)]
            if chats and self.tokenizer.chat_template is None:
                if not self.findings.about("model.chat_template"):
                    self.findings.add(
                        "model.chat_template",
                        f"rows are conversational ({chats[0]['id']}), but the tokenizer of {self.recipe.model.path} has no "
                        "chat template: give one here, or use plain prompts",
                    )
                return
            self.check_spelling(key, chunk)
            prompts = [(row, "prompt", row["prompt"]) for row in chunk if row.get("prompt") is not None]
            for row, _, length in self.lengths(key, prompts):
                if self.context is not None and length + longest_answer > self.context:
                    self.findings.add(
                        key,
                        f"row {row['id']} has a prompt of {length} tokens; with an answer of up to {longest_answer} that "
                        f"is more than the model's context of {self.context}: shorten or drop the row, or lower {LONGEST}",
                        "prompt too long",
                    )
            yield chunk

    def check_spelling(self, key: str, rows: list[Row]) -> None:
        """No row has a character that the tokenizer would drop or garble."""
        texts = [(row, name, text) for row in rows for name in WRITTEN if row.get(name) for text in contents(row[name])]
        self.check_texts(key, texts)

    def check_texts(self, key: str, texts: list[tuple[Row, str, str]]) -> None:
        """The tokenizer can spell the text of each (row, field, text)."""
        for number, position in unspellable(self.tokenizer, [text for _, _, text in texts]):
            row, field, text = texts[number]
            self.findings.add(
                key,
                f"row {row['id']}: the tokenizer cannot spell {text[position]!r} (character {position + 1} of {field} "
                f"{text[:60]!r}): change the row, or take a model that knows it",
                "spelling",
            )

    def check_contexts(self, key: str, place: str, stage: Any, rows: list[Row]) -> None:
        """A self-distillation's teacher can be given each row's demonstration: it can be spelt, and is not too long."""
        if stage.kind != "self-distillation":
            return
        asked = []
        for row in rows:
            if demonstrated_row(row) is None:
                continue  # `preflight.check_stages` notes it
            try:
                asked.append((row, "teacher's context", in_context(row, stage.template)))
            except ValueError as error:
                message = f"row {row['id']}: {error}: a self-distillation stage cannot use it"
                self.findings.add(key, message, "teacher's context")
        texts = [(row, name, contents(text)[-1]) for row, name, text in asked]
        self.check_texts(f"{place}.template, with {key}", texts)
        answer = value_of(stage.args, stage.kind, LONGEST)
        for row, _, length in self.lengths(key, asked):
            if self.context is not None and length + answer > self.context:
                self.findings.add(
                    key,
                    f"row {row['id']}: with its demonstration the teacher is asked {length} tokens; with an answer of up "
                    f"to {answer} that is more than the model's context of {self.context}: shorten or drop the row, or "
                    f"lower {LONGEST}",
                    "teacher's context too long",
                )

    def check_trained(self, key: str, place: str, stage: Any, rows: list[Row]) -> None:
        """No row is trained on only in part, unless the recipe itself says where to cut (`max_length`)."""
        texts = [each for row in rows for each in trained_texts(row, stage.kind, self.tokenizer.eos_token)]
        cut = value_of(stage.args, stage.kind, "max_length") if texts else None
        chosen = "max_length" in stage.args
        for row, field, length in self.lengths(key, texts, answered=True):
            kept = min(length, cut) if chosen and cut else length
            if self.context is not None and kept > self.context:
                self.findings.add(
                    key,
                    f"row {row['id']} has {length} tokens with its {field}, more than the model's context of "
                    f"{self.context}: shorten or drop the row, or let args.max_length of {place} cut it",
                    f"{place} {field} beyond the context",
                )
            elif not chosen and cut and length > cut:
                self.findings.add(
                    key,
                    f"row {row['id']} has {length} tokens with its {field}, and {CONFIGS[stage.kind][2]} cuts at {cut} by "
                    f"default: say where to cut with args.max_length of {place} (null: nowhere), or drop the row",
                    f"{place} {field} cut",
                )

    def check_memories(self, stream: Stream) -> None:
        """What is kept of every task that another follows can be trained on."""
        for place, memory in memories(self.recipe).items():
            stage = Sft(kind="sft", args=memory.args)
            with self.findings.collecting():
                forms = sft_forms(stream.tasks[:-1], self.recipe.data.seed, memory.rows, place)
                for name, found in groupby(forms, lambda each: each[0].name):
                    self.check_trained(f"stream.{name}.data", place, stage, [row for _, row, _ in found])

    def lengths(
        self, key: str, texts: list[tuple[Row, str, Any]], answered: bool = False
    ) -> Iterator[tuple[Row, str, int]]:
        """(row, field, tokens) of each (row, field, text or conversation) that the chat template takes."""
        try:
            encoded = models.encode_prompts(self.tokenizer, [text for *_, text in texts], self.recipe, answered)
        except TemplateError as error:
            if len(texts) == 1:
                row, field, _ = texts[0]
                message = f"row {row['id']}: the chat template refuses its {field}: {' '.join(str(error).split())}"
                self.findings.add(key, message, f"template {field}")
                return
            for each in texts:
                yield from self.lengths(key, [each], answered)
            return
        yield from ((row, field, len(ids)) for (row, field, _), ids in zip(texts, encoded, strict=True))


def longest_answer(recipe: Recipe, task: TaskData, stage: Any) -> int:
    """The tokens that a stage may sample after a training prompt and train on."""
    if stage.kind in ROLLOUT_KINDS:
        return value_of(stage.args, stage.kind, LONGEST)
    if stage.kind == "rejection":
        return task.spec.max_completion_length or recipe.evaluation.max_completion_length
    return 0


def trained_texts(row: Row, kind: str, end: str) -> Iterator[tuple[Row, str, str | list]]:
    """(row, field, text or conversation) of what an sft or dpo stage trains on, the end of sequence included."""
    form = STAGE_ROWS[kind](row) or {}
    if "messages" in form:
        yield row, "messages", form["messages"]
    for name in ("completion", "chosen", "rejected"):
        if name in form:
            field = "demonstration" if name == "completion" and row.get("demonstration") is not None else name
            whole = form["prompt"] + form[name]
            yield row, field, whole + end if isinstance(whole, str) else whole
