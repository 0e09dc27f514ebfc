"""Whether what training teaches is what evaluation asks and reads, row by row.

Evaluation asks a prompt, generates to a stop token, and reads the text. So of what is trained on, the prompt as evaluation
encodes it must be the beginning, a stop token must follow, and the text up to there must be the demonstration. A model that
is taught anything else answers in vain: it never stops, or its right answers are read as wrong ones.
"""

import unicodedata
from typing import NamedTuple

from cpt.data.encoding import Encoder, Taught
from cpt.data.rows import completion_text

REASONING = (
    "reasoning_content",
    "reasoning",
    "thinking",
)  # fields of a message that templates write before its content
SHOWN = 60  # characters of a text that a message shows


class Failure(NamedTuple):
    """What is wrong with a row. Rows with the same thing wrong share a `kind`; what is `fatal` would be taught in vain."""

    kind: str
    message: str
    fatal: bool = True


def failure(encoder: Encoder, form: dict, taught: Taught) -> Failure | None:
    """What is wrong with what is taught of `form` ({prompt, completion} or {messages}); None where nothing is."""
    if taught.asked is None:
        return None
    if taught.answer is None:
        return another_prompt(encoder, taught)
    if taught.end is None:
        return no_end(encoder, taught)
    message = answer_of(form)
    read, wanted = encoder.text(taught.completion), without_end(encoder, completion_text([message]))
    beside = [message[name] for name in REASONING if isinstance(message.get(name), str)]
    if message.get("tool_calls") or beside:
        return left_out(read, wanted, beside, message.get("tool_calls") or ())
    if read == wanted:
        return border(encoder, taught) if taught.merges else None
    if bare(read) == bare(wanted):
        message = (
            f"is read as {around(read, wanted)} by evaluation: white space, or the form of characters, is not kept"
        )
        return Failure("white space", f"the demonstration {around(wanted, read)} {message}", fatal=False)
    why = reason(encoder, form, taught, read, wanted)
    return Failure(
        why.kind,
        f"evaluation reads the trained text, {around(encoder.shown(taught.completion), wanted)}, as "
        f"{around(read, wanted)}, and the demonstration is {around(wanted, read)}: {why.message}",
    )


def answer_of(form: dict) -> dict:
    """The last message of the assistant's in what a row teaches."""
    answer = form["completion"] if "prompt" in form else form["messages"]
    if isinstance(answer, str):
        return {"role": "assistant", "content": answer}
    return [message for message in answer if message["role"] == "assistant"][-1]


def another_prompt(encoder: Encoder, taught: Taught) -> Failure:
    """The template writes a prompt differently once an answer follows."""
    pairs = enumerate(zip(taught.asked, taught.ids, strict=False))
    place = max(0, next((i for i, (one, other) in pairs if one != other), 0) - 3)
    asked, trained = (encoder.shown(ids[place : place + 24]) for ids in (taught.asked, taught.ids))
    return Failure(
        "prompt",
        f"evaluation sends ...{asked!r:.{SHOWN}} where training has ...{trained!r:.{SHOWN}}: the chat "
        "template writes a prompt differently when an answer follows"
        ": set model.chat_template to one that does not, or change "
        "its options with"
        " model.chat_template_kwargs",
    )


def border(encoder: Encoder, taught: Taught) -> Failure:
    """The end of the prompt and the beginning of the demonstration would be one token in running text."""
    asked, answer = encoder.shown(taught.asked)[-10:], encoder.shown(taught.completion)[:10]
    message = f"the tokenizer would join {asked!r} and {answer!r} across the border between prompt and demonstration"
    advice = "white space between the two belongs to the beginning of the demonstration"
    return Failure(
        "border", f"{message}; they are trained on separately, as evaluation has them: {advice}", fatal=False
    )


def no_end(encoder: Encoder, taught: Taught) -> Failure:
    """No stop token is taught. The remedy names what the template ends a turn with, where that is one token."""
    ends = ", ".join(repr(encoder.tokenizer.decode([each])) for each in sorted(encoder.ends))
    last = encoder.tokenizer.decode(taught.completion[-1:])
    special = [each for each in taught.completion if encoder.is_special(each)]
    token = encoder.tokenizer.decode(special[-1:]) if special else last
    is_one = len(encoder.tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
    stop = token.replace("\n", "\\n")
    own = f'set `stop: ["{stop}"]` in the task, or ' if is_one and token and (special or not token.strip()) else ""
    return Failure(
        "no end",
        f"what is trained on after the prompt, {encoder.shown(taught.completion)[-SHOWN:]!r}, holds none of the "
        f"tokens that end an answer ({ends}), so the model would never learn to stop: {own}set model.chat_template "
        f"to one whose answers end with {encoder.tokenizer.eos_token!r}",
    )


def left_out(read: str, content: str, beside: list[str], calls) -> Failure | None:
    """A message with tool calls or reasoning: all of it must be in what is read (calls in whatever form)."""
    if calls and bare(read) == bare("".join([*beside, content])):
        return Failure(
            "tool calls",
            f"the chat template leaves the tool_calls out of its answer (it writes {read[:SHOWN]!r}): set "
            "model.chat_template to one that writes them",
        )
    texts = [text for text in (*beside, content) if bare(text) not in bare(read)]
    if texts:
        return Failure(
            "part of an answer",
            f"the chat template leaves {texts[0][:SHOWN]!r} out of its answer (it writes {read[:SHOWN]!r}): set "
            "model.chat_template to one that writes it",
        )
    return None


def reason(encoder: Encoder, form: dict, taught: Taught, read: str, wanted: str) -> Failure:
    """Why evaluation reads another text than the demonstration, and what to do."""
    completion, chat = encoder.shown(taught.completion[:-1]), encoder.is_chat(form)
    named = [token for each in encoder.ends if (token := encoder.tokenizer.decode([each])) and token in wanted]
    if named and bare(wanted).startswith(bare(read)):
        return Failure("early end", f"{named[0]!r} within it ends an answer: write the row without it")
    if not encoder.keep and bare(completion) == bare(wanted):
        return Failure(
            "special tokens",
            "verifiers are given answers without special tokens: set `special_tokens: keep` in the task",
        )
    if bare(read).endswith(bare(wanted)) and chat:
        if not encoder.opens_a_turn:
            return Failure(
                "generation prompt",
                "the chat template opens no turn for the answer: set model.chat_template to one that does so with "
                "add_generation_prompt",
            )
        options = "{enable_thinking: false}" if "enable_thinking" in str(encoder.tokenizer.chat_template) else "{...}"
        return Failure(
            "added text",
            "the chat template writes more into an answer than the demonstration: have it written into the prompt (model."
            f"chat_template_kwargs: {options}), or write it into the demonstrations",
        )
    who = "the chat template or the tokenizer" if chat else "the tokenizer"
    return Failure(
        "changed text", f"{who} writes it differently: change the row, or use a model that keeps it as it is"
    )


def without_end(encoder: Encoder, text: str) -> str:
    """The text without a stop token that it spells out at its end."""
    for each in encoder.ends:
        token = encoder.tokenizer.decode([each])
        if token.strip() and text.rstrip().endswith(token):
            return text.rstrip().removesuffix(token)
    return text


def bare(text: str) -> str:
    """What two texts share that differ only in white space and in the form of characters."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def around(text: str, other: str) -> str:
    """The text as Python writes it; of a long one the part where it begins to differ from `other`."""
    if len(text) <= SHOWN:
        return repr(text)
    first = next(
        (i for i, (one, two) in enumerate(zip(text, other, strict=False)) if one != two), min(len(text), len(other))
    )
    start = max(0, min(first - SHOWN // 2, len(text) - SHOWN))
    cut = text[start : start + SHOWN]
    return f"{'...' if start else ''}{cut!r}{'...' if start + SHOWN < len(text) else ''}"
