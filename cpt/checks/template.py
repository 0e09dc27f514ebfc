"""What the chat template makes of the recipe's options, and what special tokens are to verifiers."""

import re
from collections.abc import Sequence
from typing import Any

from cpt.checks.findings import Findings
from cpt.data.encoding import Encoder, Encoding
from cpt.data.rows import Row, called
from cpt.errors import nearest
from cpt.rewards.verifiers import build, may_hang, reads_answers, single

RUN_DECIDES = ("conversation", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message")
RUN_DECIDES = (*RUN_DECIDES, "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict")


def check_options(model: Encoding, findings: Findings) -> bool:
    """The chat template knows each option that the recipe gives it: a name that it does not know would do nothing.

    Returns whether a chat can be written with them.
    """
    template = text_of(model.tokenizer.chat_template)
    for name in model.options:
        key = f"model.chat_template_kwargs.{name}"
        if name in RUN_DECIDES:
            findings.add(key, "is set by the run, not by the recipe: remove it")
        elif not re.search(rf"\b{re.escape(name)}\b", template):
            near = nearest(name, set(re.findall(r"[^\W\d]\w+", template)))
            findings.add(key, f"the chat template has no option {name}, so it would do nothing{near}")
    return not set(RUN_DECIDES) & set(model.options)


def warn_of_options(model: Encoding, chats: bool, findings: Findings) -> None:
    """Options that nothing goes through, and prompts that hold the day; `chats`: whether any prompt is a chat."""
    if model.options and not chats:
        findings.warn("model.chat_template_kwargs", "no prompt goes through the chat template, so they do nothing")
    if chats and "strftime_now" in text_of(model.tokenizer.chat_template) and "date_string" not in model.options:
        findings.warn(
            "model.chat_template_kwargs",
            "the chat template writes the date into every prompt, so a run on another day would send other prompts: "
            "give the date if the template takes one, e.g. "
            '{date_string: "26 Jul 2024"}, or set model.chat_template to another template',
        )


def text_of(template: str | dict[str, str] | None) -> str:
    """All of a chat template; there may be several by name, or none."""
    return template if isinstance(template, str) else "\n".join((template or {}).values())


def check_special_tokens(key: str, spec: Any, encoder: Encoder, findings: Findings) -> None:
    """What the verifiers of the task `spec` look for can be in what they are given."""
    if encoder.keep:
        return
    for name in ("reward", "metric"):
        reward = getattr(spec, name)
        for each in single(reward.model_dump()) if reward is not None else ():
            looked_for = [each.get("pattern", "").replace("\\", ""), *each.get("after", ()), *each.get("labels", ())]
            tokens = [token for token in encoder.special_tokens if any(token in text for text in looked_for)]
            if tokens:
                named = " and ".join(map(repr, tokens))
                message = f"{each['kind']} looks for {named}, and answers come without special tokens"
                findings.add(f"{key}.{name}", f"{message}: set `special_tokens: keep` in the task")


def check_special_answer(key: str, spec: Any, row: Row, encoder: Encoder, findings: Findings) -> None:
    """No row's answer is right only with special tokens that verifiers are not given."""
    answer = row.get("answer")
    if encoder.keep or not isinstance(answer, str) or not encoder.special_pattern.search(answer):
        return
    given = encoder.special_pattern.sub("", answer)
    if kind := calls_wrong(spec, row, given):
        findings.add(
            key,
            f"{called(row)}: its answer {answer[:60]!r} holds special tokens of the tokenizer, and verifiers are "
            f"given {given[:60]!r}, which {kind} scores as wrong: set `special_tokens: keep` in the task",
            "special answer",
            row,
        )


def check_rewritten_answers(key: str, spec: Any, rows: Sequence[Row], encoder: Encoder, findings: Findings) -> None:
    """No row's answer is right only in a form that the tokenizer does not write (capitals, say).

    Of answers with unknown tokens (`TokenChecks.check_spelling`) or special ones (above) nothing is said here.
    """
    answered = [row for row in rows if isinstance(row.get("answer"), str)]
    special, unknown = encoder.special_pattern, encoder.tokenizer.unk_token_id
    answered = [row for row in answered if encoder.keep or not special.search(row["answer"])]
    for row, ids in zip(answered, encoder.encoded([row["answer"] for row in answered]), strict=True):
        answer, given = row["answer"], encoder.text(ids)
        if given == answer or unknown in ids:
            continue
        if kind := calls_wrong(spec, row, given):
            findings.add(
                key,
                f"{called(row)}: the tokenizer writes its answer {answer[:60]!r} as {given[:60]!r}, which {kind} "
                "scores as wrong"
                ", so the model could never be right: write answers as the tokenizer does, or take another verifier "
                "or "
                "model",
                "rewritten answer",
                row,
            )


def calls_wrong(spec: Any, row: Row, given: str) -> str | None:
    """The kind of verifier of the task `spec` by which the row's answer is right, and `given` is not; None: there is none."""
    seen = row | {"finished": True}
    for each in single(spec.verifier.model_dump()) if spec.verifier else ():
        if reads_answers(each) and not may_hang(each):
            verifier = build(each)
            if verifier(row["answer"], seen) == 1 and verifier(given, seen) < 1:
                return each["kind"]
    return None
