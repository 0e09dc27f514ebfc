"""Whether every row fits the model: its tokenizer can encode it, its chat template write it, its context hold it, and what
training teaches of it is what evaluation asks and reads (`data.roundtrip`). Rows that are too long: `lengths`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

from cpt.checks.findings import Findings
from cpt.checks.lengths import (
    LONGEST,
    NONE,
    Limit,
    Overlong,
    demonstration_limit,
    measured_limit,
    prompt_limit,
    tightest,
    trained_limits,
)
from cpt.checks.split import Split
from cpt.checks.template import (
    check_options,
    check_rewritten_answers,
    check_special_answer,
    check_special_tokens,
    warn_of_options,
)
from cpt.checks.tokenizer_coverage import lost_bytes, unspellable
from cpt.data.encoding import Encoder, Encoding, Taught, TemplateRefuses
from cpt.data.memory import memories, sft_forms
from cpt.data.roundtrip import bare, failure
from cpt.data.rows import (
    Row,
    called,
    contents,
    demonstrated_row,
    in_context,
    lessons,
    prompt_of,
    tools_of,
)
from cpt.data.stream import Stream, TaskData
from cpt.recipe import Recipe
from cpt.recipe.stages import Sft, StageSpec
from cpt.sizes import many

CHUNK = 1000
WRITTEN = ("prompt", "answer", "demonstration", "completion", "chosen", "rejected", "messages")
TOOL_ROLES = ("tool", "function", "ipython")  # whose content a template may write in a form of its own


@dataclass
class TokenChecks:
    """Checks rows against a model: its `context` and its `vocabulary` (rows of its embedding), each None if unknown.

    `counts` is {task: {split: {left_out, cut}}} of rows that were too long; a suite's task is SUITE/TASK there.
    """

    recipe: Recipe
    model: Encoding
    context: int | None
    vocabulary: int | None
    findings: Findings
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    chats: bool = False  # whether any prompt so far goes through the chat template

    @cached_property
    def lost_bytes(self) -> frozenset[int] | None:
        return lost_bytes(self.model.tokenizer)

    def check(self, stream: Stream) -> Stream:
        """Look at all rows of the run; returns the stream without those that `overlong` leaves out."""
        if not check_options(self.model, self.findings):
            return stream
        tasks = tuple(self.check_task(f"stream.{task.name}", task.name, task) for task in stream.tasks)
        self.check_memories(tasks)
        suites = {
            name: tuple(
                self.check_task(f"suite {name}: tasks.{task.name}", f"{name}/{task.name}", task) for task in asked
            )
            for name, asked in stream.suites.items()
        }
        warn_of_options(self.model, self.chats, self.findings)
        return replace(stream, tasks=tasks, suites=suites)

    def check_task(self, key: str, name: str, task: TaskData) -> TaskData:
        """Look at the rows of a task; returns it without those that `overlong` leaves out."""
        with self.findings.collecting():
            encoder = self.model.of(task.spec)
            check_special_tokens(key, task.spec, encoder, self.findings)
            kept = {}
            for split in ("train", "validation", "eval"):
                rows = getattr(task, split)
                if len(rows):
                    kept[split] = self.check_split(key, name, task, split, rows, encoder)
            return replace(task, **kept)
        return task

    def check_split(self, key: str, name: str, task: TaskData, split: str, rows: Sequence[Row], encoder: Encoder):
        """Look at the rows of one split; returns those that are used."""
        stages = task.spec.stages if split == "train" else ()
        limit = task.spec.max_completion_length or self.recipe.evaluation.max_completion_length
        follows = max((stage.longest_answer(limit) for stage in stages), default=limit)
        long = Overlong(key, split, len(rows), task.spec.overlong)
        this = Split(key, split, task.spec, encoder, rows, long, prompt_limit(self.context, follows), limit)
        if split != "train" and task.spec.by_likelihood:  # its rows are read, and nothing is answered
            this.measures(measured_limit(self.context))
        for index, stage in enumerate(stages):
            where = f"{key}.stages.{index}"
            if (longest := stage.longest_answer(0)) > limit:
                self.findings.warn(
                    where,
                    f"samples answers of up to {longest} tokens, and evaluation cuts at {limit}: raise "
                    f"{LONGEST} of the task, or lower that of `args`",
                )
            if stage.teaches:
                _, *earlier = this.trained.get(stage.kind, (stage,))
                this.trained[stage.kind] = stage, tightest([*earlier, *trained_limits(self.context, where, stage)])
            if stage.long_demonstrations == "refuse":
                this.demonstration_limit = tightest([this.demonstration_limit, demonstration_limit(where, stage)])
            if stage.template is not None:
                this.teachers.append((where, stage))
            if stage.trl_config == "SFTConfig":
                self.check_loss(this, where, stage.args)
        iterator, place = iter(this.asked_rows()), 0
        while chunk := list(islice(iterator, CHUNK)):
            if not self.check_form(this, chunk):
                return rows
            self.check_chunk(this, place, chunk)
            place += len(chunk)
        self.warn_unreachable(this)
        counts = long.report(self.findings)
        if counts:
            self.counts.setdefault(name, {})[split] = {"rows": len(rows)} | counts
        return rows.at([i for i in range(len(rows)) if i not in long.left_out]) if long.left_out else rows

    # -- one chunk of rows ---------------------------------------------------------------------------------------------------

    def check_form(self, this: Split, rows: list[Row]) -> bool:
        """Whether the rows can be sent as the task says: by a chat template that is there, or as they are."""
        chats = [row for row in rows if row.get("messages") or not isinstance(row["prompt"], str)]
        texts = [row for row in rows if row.get("prompt") is not None and isinstance(row["prompt"], str)]
        encoder, key = this.encoder, this.key
        self.chats = self.chats or bool(chats) or (bool(texts) and encoder.form.chat)
        if encoder.tokenizer.chat_template is None and (chats or encoder.form.chat):
            rows_are = f"rows are conversational ({chats[0]['id']})" if chats else f"{key} says `prompt: chat`"
            if not self.findings.about("model.chat_template"):
                self.findings.add(
                    "model.chat_template",
                    f"{rows_are}, but the tokenizer of {self.recipe.model.path} has no chat template: give one here, or use "
                    "plain prompts",
                )
            return False
        if chats and this.spec.prompt == "raw":
            message = f"raw sends strings as they are, and {called(chats[0])} is a chat: remove `prompt`"
            self.findings.add(f"{key}.prompt", message, "raw")
        if texts and this.spec.system is not None and not encoder.form.chat:
            message = f"is a message of a chat, and its prompts are sent raw ({encoder.form.why}): set `prompt: chat`"
            self.findings.add(f"{key}.system", message, "raw")
        if texts and not encoder.form.chat and encoder.appended:
            [asked] = encoder.prompts(texts[:1])
            self.findings.add(
                this.data,
                f"{called(texts[0])}: evaluation sends {encoder.shown(asked)[-60:]!r}, but training continues "
                f"{texts[0]['prompt'][-60:]!r}: the tokenizer puts {encoder.shown(encoder.appended)!r} after every "
                "text: remove that from its files (add_eos_token of tokenizer_config.json, post_processor of "
                "tokenizer.json), or set `prompt: chat` where it has a chat template",
                "appended",
            )
            return False
        return True

    def check_loss(self, this: Split, where: str, args: dict) -> None:
        """The rows have the parts that the stage's arguments would train on."""
        asked = {name: args.get(name) is True for name in ("assistant_only_loss", "completion_only_loss")}
        this.answers_alone = this.answers_alone or asked["assistant_only_loss"]
        for row in this.rows if any(asked.values()) else ():
            if asked["assistant_only_loss"] and not this.encoder.is_chat(row):
                message = f"is for chats, and the prompt of {called(row)} is sent raw: remove it, or set `prompt: chat`"
                self.findings.add(f"{where}.args.assistant_only_loss", message, "raw")
            if asked["completion_only_loss"] and row.get("messages"):
                message = (
                    f"{called(row)} is a conversation, no part of which is the completion: use assistant_only_loss"
                )
                self.findings.add(f"{where}.args.completion_only_loss", message, "conversation")

    def check_chunk(self, this: Split, first: int, rows: list[Row]) -> None:
        """Spelling, what is taught, and prompts of rows whose places begin at `first`."""
        self.check_spelling(this, rows)
        places = {id(row): first + i for i, row in enumerate(rows)}
        asked: dict[int, list[int]] = {}  # the prompts that were encoded with what is taught
        for stage, limit in this.trained.values():
            for row, name, form, taught in self.taught(this, lessons(rows, stage)):
                self.check_taught(this, row, name, form, taught)
                self.look_long(this, stage, limit, places[id(row)], row, name, taught)
                if "prompt" in form and taught.asked is not None and taught.start == len(taught.asked):
                    asked[id(row)] = taught.asked
        others = [row for row in rows if row.get("prompt") is not None and id(row) not in asked]
        known = [(row, asked[id(row)]) for row in rows if id(row) in asked]
        for row, ids in (*known, *self.prompts(this, others, "prompt")):
            self.check_ids(this, row, "prompt", ids)
            this.long.look(places[id(row)], called(row), "a prompt of {} tokens", len(ids), this.prompt_limit)
        for row in rows:
            self.check_written(this, row)
            if this.is_scored:
                check_special_answer(this.data, this.spec, row, this.encoder, self.findings)
        if this.is_scored and self.lost_bytes is None:  # a tokenizer of bytes writes every text as it is
            check_rewritten_answers(this.data, this.spec, rows, this.encoder, self.findings)
        for where, stage in this.teachers:
            self.check_contexts(this, where, stage, rows, places)

    def look_long(
        self, this: Split, stage: StageSpec, limit: Limit, place: int, row: Row, name: str, taught: Taught
    ) -> None:
        """Whether what is taught of a row is too long for the stage."""
        this.long.look(place, called(row), f"{{}} tokens with its {name}", len(taught.ids), limit)
        if limit.tokens is not None and taught.start >= limit.tokens and not limit.keeps_end:
            this.long.emptied.add(place)
        if stage.uses_engine:  # a demonstration among rollouts
            tokens = len(taught.ids) - taught.start
            this.long.look(place, called(row), "a demonstration of {} tokens", tokens, this.demonstration_limit)

    def check_taught(self, this: Split, row: Row, name: str, form: dict, taught: Taught) -> None:
        """What is taught is what evaluation asks and reads, in tokens that the model knows."""
        self.check_ids(this, row, name, taught.ids[taught.start :])
        wrong = failure(this.encoder, form, taught)
        if wrong is not None:
            report = self.findings.add if wrong.fatal else self.findings.warn
            report(this.data, f"{called(row)}, {name}: {wrong.message}", wrong.kind, row)
        if this.answers_alone and "messages" in form and taught.asked is not None:
            spans, otherwise = this.encoder.answers(form, taught)
            if otherwise:
                number = f"{otherwise} of its {many(otherwise + len(spans), 'answer')}"
                message = (
                    f"{called(row)}: the chat template writes {number} differently from how the model would give it"
                )
                self.findings.warn(this.data, f"{message}, so that is context only", "context only", row)
        if name != "rejected" and taught.end is not None and len(taught.completion) > this.answer_limit:
            this.unreachable[called(row)] = len(taught.completion)

    def warn_unreachable(self, this: Split) -> None:
        """Answers that are taught and can never be given: evaluation stops before their ends."""
        if this.unreachable:
            name, length = next(iter(this.unreachable.items()))
            self.findings.warn(
                this.data,
                f"{len(this.unreachable)} of {len(this.rows)} rows teach answers that evaluation would cut off, such as "
                f"{name} of {length} tokens: raise {LONGEST} of the task ({this.answer_limit})",
            )

    def check_ids(self, this: Split, row: Row, name: str, ids: list[int]) -> None:
        """The model has an embedding for each token of a row."""
        if self.vocabulary is None or not ids or max(ids) < self.vocabulary:
            return
        beyond = next(each for each in ids if each >= self.vocabulary)
        token = this.encoder.tokenizer.convert_ids_to_tokens(beyond)
        self.findings.add(
            this.data,
            f"{called(row)}: its {name} holds {token!r} (id {beyond}), and the model has embeddings for {self.vocabulary} "
            "tokens: the token was added to the tokenizer and not to the model: resize the model's embeddings "
            "(resize_token_embeddings) and save it again, or write the rows without the token",
            f"embedding {name}",
            row,
        )

    def check_written(self, this: Split, row: Row) -> None:
        """The chat template writes messages of every role, and tools. Of each role the first row is looked at."""
        sent = this.encoder.sent(prompt_of(row))
        if isinstance(sent, str):
            if tools_of(row):
                message = f"{called(row)} has tools, and its prompt is sent raw: set `prompt: chat`, or leave them out"
                self.findings.add(this.data, message, "tools", row)
            return
        new = [each for each in sent if each["role"] not in this.roles and contents([each])[0].strip()]
        tools = bool(tools_of(row)) and "tools of the row" not in this.roles
        for _, ids in self.prompts(this, [row], "prompt") if new or tools else ():
            text = bare(this.encoder.shown(ids))
            for message in new:
                self.check_role(this, row, message, text)
            if tools:
                self.check_tools(this, row, ids)

    def check_role(self, this: Split, row: Row, message: dict, text: str) -> None:
        """The chat template writes this message; `text` is all that it writes."""
        this.roles.add(message["role"])
        content = contents([message])[0]
        if message["role"] not in ("assistant", *TOOL_ROLES) and bare(content) not in text:
            self.findings.add(
                this.data,
                f"{called(row)}: the chat template leaves messages of the role {message['role']!r} out "
                f"({content[:60]!r}): use a role that the template knows, or set model.chat_template to another "
                "template",
                f"role {message['role']}",
            )

    def check_tools(self, this: Split, row: Row, ids: list[int]) -> None:
        """The chat template writes the row's tools; `ids` are its prompt."""
        this.roles.add("tools of the row")
        [without] = this.encoder.prompts([{name: value for name, value in row.items() if name != "tools"}])
        if without == ids:
            self.findings.add(
                this.data,
                f"{called(row)} has tools, and the chat template leaves them out: set model.chat_template to one "
                "that writes them",
                "tools",
            )

    def check_spelling(self, this: Split, rows: list[Row]) -> None:
        """No row has a character that the tokenizer would drop or garble."""
        texts = [(row, name, text) for row in rows for name in WRITTEN if row.get(name) for text in contents(row[name])]
        self.check_texts(this.data, this.encoder, texts)

    def check_texts(self, key: str, encoder: Encoder, texts: list[tuple[Row, str, str]]) -> None:
        """The tokenizer can encode the text of each (row, field, text)."""
        if self.lost_bytes is not None:
            texts = [each for each in texts if not self.lost_bytes.isdisjoint(each[2].encode())]
        for number, position in unspellable(encoder.tokenizer, [text for _, _, text in texts]):
            row, name, text = texts[number]
            self.findings.add(
                key,
                f"{called(row)}: the tokenizer cannot encode {text[position]!r} (character {position + 1} of {name} "
                f"{text[:60]!r}): change the row, or use a model that knows it",
                "spelling",
                row,
            )

    def check_contexts(self, this: Split, where: str, stage: Any, rows: list[Row], places: dict[int, int]) -> None:
        """A self-distillation's teacher can be given each row's demonstration: it can be encoded, and is not too long."""
        asked = []
        for row in rows:
            if demonstrated_row(row) is None:
                continue  # `preflight.check_stages` notes it
            try:
                asked.append((row, {"id": row["id"], "prompt": in_context(row, stage.template)} | tools_of(row)))
            except ValueError as error:
                message = f"{called(row)}: {error}: a self-distillation stage cannot use it"
                self.findings.add(this.data, message, "teacher's context", row)
        texts = [(row, "teacher's context", contents(form["prompt"])[-1]) for row, form in asked]
        self.check_texts(f"{where}.template", this.encoder, texts)
        limit = prompt_limit(self.context, stage.value(LONGEST))
        whose = {id(form): row for row, form in asked}
        for form, ids in self.prompts(this, [form for _, form in asked], "teacher's context"):
            row = whose[id(form)]
            this.long.look(places[id(row)], called(row), "a teacher's prompt of {} tokens", len(ids), limit)

    def check_memories(self, tasks: Sequence[TaskData]) -> None:
        """What is kept of every task that another follows can be trained on."""
        for place, memory in memories(self.recipe).items():
            limit = tightest(trained_limits(self.context, place, Sft(kind="sft", args=memory.args)))
            kept: dict[str, list[tuple[int, Row, dict]]] = {}
            with self.findings.collecting():
                for number, (task, row, form) in enumerate(
                    sft_forms(tasks[:-1], self.recipe.data.seed, memory.rows, place)
                ):
                    kept.setdefault(task.name, []).append((number, row, form))
            for task in tasks[:-1]:
                rows = kept.get(task.name, [])
                long = Overlong(f"stream.{task.name}", "train", len(rows), task.spec.overlong)
                this = Split(f"stream.{task.name}", "train", task.spec, self.model.of(task.spec), [], long, NONE, 10**9)
                named = [(row, "messages" if "messages" in form else "demonstration", form) for _, row, form in rows]
                places = {id(row): number for number, row, _ in rows}
                for row, name, form, taught in self.taught(this, named):
                    self.check_taught(this, row, name, form, taught)
                    long.look(places[id(row)], called(row), f"{{}} tokens with its {name}", len(taught.ids), limit)
                long.report(self.findings)

    # -- the encoder, row by row where the template refuses one --------------------------------------------------------------

    def prompts(self, this: Split, rows: list[Row], name: str) -> Iterator[tuple[Row, list[int]]]:
        """(row, ids of its prompt) of each row that the chat template can write."""
        if not rows:
            return
        try:
            yield from zip(rows, this.encoder.prompts(rows), strict=True)
        except TemplateRefuses as error:
            if len(rows) == 1:
                self.refused(this, rows[0], name, error)
            else:
                for row in rows:
                    yield from self.prompts(this, [row], name)

    def taught(self, this: Split, named: list[tuple[Row, str, dict]]) -> Iterator[tuple[Row, str, dict, Taught]]:
        """(row, field, form, what is taught) of each (row, field, form) that the chat template can write."""
        try:
            examples = this.encoder.taught([form for *_, form in named])
            yield from ((*each, taught) for each, taught in zip(named, examples, strict=True))
        except TemplateRefuses as error:
            if len(named) == 1:
                self.refused(this, named[0][0], named[0][1], error)
            else:
                for each in named:
                    yield from self.taught(this, [each])

    def refused(self, this: Split, row: Row, name: str, error: TemplateRefuses) -> None:
        message = f"{called(row)}: the chat template refuses its {name}: {error}"
        self.findings.add(this.data, message, f"template {name}", row)
