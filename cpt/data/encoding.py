"""Token ids of prompts and of what training teaches, and the text of answers: one place for training and evaluation.

A prompt that is a string is sent *raw* (its tokens, and the special tokens that the tokenizer puts before a text) or as a
*chat* (a user's message, by the chat template); `prompt` of the task says which, else `Form` decides. Training teaches the
tokens that follow the prompt as evaluation encodes it: of a chat, what the template writes; of a raw prompt, the answer and
the end of sequence. An answer ends with the first stop token: a line end that a template writes after it is not trained on.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from cpt import models
from cpt.data.rows import completion_messages, prompt_of, tools_of, unpack

PROBE = {"prompt": [{"role": "user", "content": "Hello"}], "completion": "Yes"}


class TemplateRefuses(ValueError):
    """The chat template cannot write a chat; the message is the template's own."""


class Form(NamedTuple):
    """How a string is sent as a prompt, and why."""

    chat: bool
    why: str

    @property
    def name(self) -> str:
        return "chat" if self.chat else "raw"


@dataclass(frozen=True)
class Taught:
    """What training teaches of one row, as token ids: all of `ids` from `start` on.

    `asked` is the prompt of the row's last answer as evaluation encodes it (None: nothing stands before that answer). The
    answer is `ids[answer:end]`; `answer` is None where `ids` do not begin with `asked`, `end` is None where nothing ends it.
    `merges`: the tokenizer would join prompt and answer where they meet, and `ids` keep them apart.
    """

    asked: list[int] | None
    ids: list[int]
    start: int
    answer: int | None
    end: int | None
    merges: bool = False

    @property
    def completion(self) -> list[int]:
        """The last answer, with the token that ends it."""
        return self.ids[self.answer or 0 : self.end]


class Encoding:
    """The encoders of a model's tasks. `stop_ids` end an answer of the model, `options` are for its chat template."""

    def __init__(self, tokenizer, stop_ids: Sequence[int], options: dict[str, Any]):
        self.tokenizer, self.stop_ids, self.options = tokenizer, tuple(stop_ids), options

    @cached_property
    def form(self) -> Form:
        """How strings are sent where a task does not say: as chats, if the model answers its chat template's questions.

        It does where the template ends an answer with one of the model's own stop tokens: base models often come with the
        template of their instruct model, and stop elsewhere.
        """
        if self.tokenizer.chat_template is None:
            return Form(False, "the tokenizer has no chat template")
        probe = Encoder(self.tokenizer, self.stop_ids, (), self.options, Form(True, ""))
        try:
            [taught] = probe.taught([PROBE])
        except TemplateRefuses as error:
            return Form(False, f"the chat template fails on a plain question: {error}")
        ids = list(taught.ids)
        while ids and not self.tokenizer.decode(ids[-1:]).strip():
            ids.pop()
        if not ids or ids[-1] not in probe.ends:
            return Form(
                False,
                (
                    f"the model stops at {self.tokens_text(self.stop_ids)}, but its chat template does not end "
                    "answers with that"
                ),
            )
        if not probe.text(ids).endswith(PROBE["completion"]):
            return Form(False, "the tokenizer cannot encode a plain question")
        return Form(True, f"its chat template ends answers with {self.tokens_text(ids[-1:])}, where the model stops")

    def of(self, spec) -> "Encoder":
        """The encoder of the task `spec`. Raises UserError for a `stop` that is not a single token."""
        form = self.form if spec.prompt is None else Form(spec.prompt == "chat", "as the recipe says")
        stops = models.answer_stops(self.tokenizer, spec)
        encoder = Encoder(self.tokenizer, self.stop_ids, stops, self.options, form, spec.system)
        encoder.keep, encoder.drops_long = spec.special_tokens == "keep", spec.overlong == "drop"
        return encoder

    def tokens_text(self, ids: Sequence[int]) -> str:
        """The tokens of these ids, for people."""
        return ", ".join(repr(self.tokenizer.decode([each])) for each in ids)


def load(folder, base, recipe) -> Encoding:
    """The encoding of the model in `folder` (an adapter's: on `base`). Raises UserError where a file cannot be read."""
    tokenizer = models.load_tokenizer(folder, recipe)
    return Encoding(tokenizer, models.stop_ids_of(base, tokenizer, recipe), recipe.model.chat_template_kwargs)


def encoder_of(stage) -> "Encoder":
    """What makes token ids of the rows of a stage's task (`context.Stage`), by the tokenizer of the model it starts from."""
    return load(stage.source, stage.base, stage.recipe).of(stage.task.spec)


def prompts(asked: "Iterable[tuple[Encoder, dict]]") -> list[list[int]]:
    """Token ids of the prompt of each row, by the encoder of its task."""
    ids = []
    for encoder, mine in groupby(asked, lambda each: each[0]):
        ids += encoder.prompts([row for _, row in mine])
    return ids


class Encoder:
    """Encodes the rows of one task, and reads its answers.

    `stops` are ids that end an answer besides the model's `stop_ids`; `system` is put before chats that have no system
    message; with `keep` verifiers are given special tokens too; `drops_long`: rows beyond a stage's limit are left out.
    """

    def __init__(
        self,
        tokenizer,
        stop_ids: Sequence[int],
        stops: Sequence[int],
        options: dict[str, Any],
        form: Form,
        system: str | None = None,
    ):
        self.tokenizer, self.options, self.form = tokenizer, options, form
        self.stops, self.ends = tuple(stops), frozenset((*stop_ids, *stops))
        self.system = system
        self.keep = self.drops_long = False

    # -- prompts and answers -------------------------------------------------------------------------------------------------

    def sent(self, prompt: str | list[dict]) -> str | list[dict]:
        """The prompt as it is sent: a text, or a chat for the template."""
        if isinstance(prompt, str):
            if not self.form.chat:
                return prompt
            prompt = [{"role": "user", "content": prompt}]
        if self.system is None or prompt[0]["role"] in ("system", "developer"):
            return prompt
        return [{"role": "system", "content": self.system}, *prompt]

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """The tokens that decoding leaves out where special tokens are stripped, with their ids."""
        added = {token.content: each for each, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True)) | added

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.special_tokens)))

    def is_special(self, each: int) -> bool:
        return each in self.special_tokens.values()

    @cached_property
    def appended(self) -> list[int]:
        """What the tokenizer puts after every text by itself: it would stand between a raw prompt and its answer."""
        alone, extended = self._encoded(["a"])[0], self._encoded(["a"], special=True)[0]
        places = [place for place in range(len(extended)) if extended[place : place + len(alone)] == alone]
        return extended[places[0] + len(alone) :] if places else []

    def is_chat(self, form: dict) -> bool:
        """Whether the prompt of {prompt, ...} or {messages} goes through the chat template."""
        return not isinstance(self.sent(prompt_of(form)), str)

    @cached_property
    def opens_a_turn(self) -> bool:
        """Whether the chat template writes anything after the question, to open the turn of the answer."""
        asked, answered = (self._rendered([PROBE["prompt"]], [None], asking) for asking in (True, False))
        return asked != answered

    def prompts(self, rows: Sequence[dict]) -> list[list[int]]:
        """Token ids of each row's prompt; `tools` of a row go to the chat template.

        Raises:
            TemplateRefuses: the chat template cannot write a row.
        """
        sent = [self.sent(prompt_of(row)) for row in rows]
        ids: list[list[int]] = [[]] * len(rows)
        raw = [i for i, prompt in enumerate(sent) if isinstance(prompt, str)]
        chats = [i for i, prompt in enumerate(sent) if not isinstance(prompt, str)]
        texts = self._rendered([sent[i] for i in chats], [tools_of(rows[i]).get("tools") for i in chats], asking=True)
        for i, each in zip(raw, self._encoded([sent[i] for i in raw], special=True), strict=True):
            ids[i] = each
        for i, each in zip(chats, self._encoded(texts), strict=True):
            ids[i] = each
        return ids

    def raw_text(self, text: str) -> list[int]:
        """Token ids of a text after the token that begins one: that of the tokenizer, else the end of sequence."""
        ids = self._encoded([text], special=True)[0]
        ids = ids[: len(ids) - len(self.appended)]
        first = self.tokenizer.bos_token_id
        first = self.tokenizer.eos_token_id if first is None else first
        return ids if ids[:1] == [first] else [first, *ids]

    def packed(self, texts: Sequence[str]) -> list[list[int]]:
        """`prompts` of packed rows (`rows.packed`), of which neighbours may be the same."""
        different = list(dict.fromkeys(texts))
        ids = dict(zip(different, self.prompts(unpack(different)), strict=True))
        return [list(ids[text]) for text in texts]

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer as verifiers are given it: without the token that ended it."""
        ids = list(ids[:-1] if len(ids) and ids[-1] in self.ends else ids)
        return self.tokenizer.decode(ids, skip_special_tokens=not self.keep, clean_up_tokenization_spaces=False)

    def shown(self, ids: Sequence[int]) -> str:
        """The text of any ids, special tokens included, for people."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    # -- what training teaches -----------------------------------------------------------------------------------------------

    def taught(self, forms: Sequence[dict]) -> list[Taught]:
        """What is taught of each {prompt, completion} or {messages}; `tools` beside them go to the chat template.

        Raises:
            TemplateRefuses: the chat template cannot write a row.
        """
        results: list[Taught | None] = [None] * len(forms)
        raw, chats = [], []
        for i, form in enumerate(forms):
            sent = self.sent(form.get("prompt") or form["messages"])
            (raw if isinstance(sent, str) else chats).append((i, sent))
        texts = [(sent, forms[i]["completion"]) for i, sent in raw]
        for (i, _), each in zip(raw, self._taught_raw(texts), strict=True):
            results[i] = each
        for (i, _), each in zip(chats, self._taught_chats(chats, forms), strict=True):
            results[i] = each
        return results

    def _taught_raw(self, texts: list[tuple[str, str]]) -> Iterator[Taught]:
        """The prompt's own tokens, then the answer's: as the tokenizer splits the whole text, if it splits it there."""
        asked = self._encoded([prompt for prompt, _ in texts], special=True)
        wholes = self._encoded([prompt + answer for prompt, answer in texts], special=True)
        for (_, answer), prompt, ids in zip(texts, asked, wholes, strict=True):
            merges = ids[: len(prompt)] != prompt
            if merges:  # what is asked decides
                ids = prompt + self._encoded([answer])[0]
            if len(ids) == len(prompt) or ids[-1] not in self.ends:
                ids = [*ids, self.tokenizer.eos_token_id]
            yield self._ended(prompt, ids, len(prompt), merges, cut=True)

    def _taught_chats(self, chats: list[tuple[int, list]], forms: Sequence[dict]) -> Iterator[Taught]:
        """What the chat template writes, up to the end of the last answer."""
        wholes, asked, prompts, tools = [], [], [], []
        for i, sent in chats:
            form, messages = forms[i], self.conversation(forms[i])
            last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
            wholes.append(messages)
            asked.append(messages[:last])
            prompts.append(sent if "prompt" in form and len(sent) != last else [])
            tools.append(form.get("tools"))
        whole_texts = self._rendered(wholes, tools, asking=False)
        asked_texts = self._rendered(asked, tools, asking=True)
        prompt_texts = self._rendered(prompts, tools, asking=True)
        ids = self._encoded(whole_texts), self._encoded(asked_texts), self._encoded(prompt_texts)
        for place, (full, before, prompt) in enumerate(zip(*ids, strict=True)):
            merges = full[: len(before)] != before and whole_texts[place].startswith(asked_texts[place])
            if merges:
                full = before + self._encoded([whole_texts[place][len(asked_texts[place]) :]])[0]
            fits = full[: len(before)] == before and full[: len(prompt)] == prompt
            start = len(prompt) if prompts[place] else len(before) if "prompt" in forms[chats[place][0]] else 0
            ends_there = len(asked[place]) == len(wholes[place]) - 1
            if not asked[place]:
                yield Taught(None, full, start, None, None)
            elif not fits:
                yield Taught(before, full, start, None, None)
            else:
                yield self._ended(before, full, start, merges, cut=ends_there)

    def conversation(self, form: dict) -> list[dict]:
        """All messages of what is taught, where that is a chat."""
        if "prompt" not in form:
            return self.sent(form["messages"])
        sent = self.sent(form["prompt"])
        return sent + completion_messages(sent, form["completion"])

    def _ended(self, asked: list[int], ids: list[int], start: int, merges: bool, cut: bool) -> Taught:
        """What is taught up to the first stop token after `asked`; what follows that is trained on unless `cut`."""
        end = next((place + 1 for place in range(len(asked), len(ids)) if ids[place] in self.ends), None)
        return Taught(asked, ids[:end] if cut else ids, start, len(asked), end, merges)

    def answers(self, form: dict, taught: Taught) -> tuple[list[tuple[int, int]], int]:
        """(start, end) in `taught.ids` of each answer of a conversation, and how many answers the template writes otherwise
        than it would ask for them (they are not among those)."""
        messages = self.conversation(form)
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant" and place]
        texts = self._rendered([messages[:place] for place in places], [form.get("tools")] * len(places), asking=True)
        spans = []
        for before in self._encoded(texts):
            if taught.ids[: len(before)] == before:
                ends = (i + 1 for i in range(len(before), len(taught.ids)) if taught.ids[i] in self.ends)
                spans.append((len(before), next(ends, len(taught.ids))))
        return spans, len(places) - len(spans)

    # -- the tokenizer -------------------------------------------------------------------------------------------------------

    def encoded(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text by itself."""
        return self._encoded(texts)

    def _encoded(self, texts: list[str], special: bool = False) -> list[list[int]]:
        """Token ids of each text, with the tokens that the tokenizer puts around a text where `special`."""
        return self.tokenizer(text=texts, add_special_tokens=special)["input_ids"] if texts else []

    def _rendered(self, chats: list[list[dict]], tools: list, asking: bool) -> list[str]:
        """Each chat by the template; `asking` opens the turn of the answer. Of an empty chat nothing."""
        texts = [""] * len(chats)
        together = [i for i, chat in enumerate(chats) if chat and not tools[i]]
        options = {"add_generation_prompt": asking, "tokenize": False, **self.options}
        try:
            if together:
                rendered = self.tokenizer.apply_chat_template(conversation=[chats[i] for i in together], **options)
                for i, text in zip(together, rendered, strict=True):
                    texts[i] = text
            for i, chat in enumerate(chats):
                if chat and tools[i]:
                    texts[i] = self.tokenizer.apply_chat_template(conversation=chat, tools=tools[i], **options)
        except Exception as error:  # a template may raise anything: TemplateError, or a TypeError of its own code
            raise TemplateRefuses(" ".join(str(error).split()) or type(error).__name__) from error
        return texts
