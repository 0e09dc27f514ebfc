"""A row is a plain dict. What it may hold, what each stage needs of it, and what it teaches.

| field | |
|---|---|
| id | a name for messages and results; made from task, split and number where the data has none, and made unique |
| prompt | a string, or a chat: a list of {role, content} |
| answer | what a verifier compares with |
| demonstration | a good completion, for SFT (`completion` is another name for it) |
| chosen, rejected | a preference |
| messages | a whole conversation, for SFT |
| raw_text | a text whose likelihood is measured (`metric: likelihood`); nothing is asked and nothing is trained |
| tools | the tools that a chat may call, as JSON schemas, for the chat template |
| answer_markers | the answer of a completion is what follows the last of these |
| metadata | anything a verifier of the user's wants |
| task | the task of the stream that it belongs to, in every row that is trained on: its verifier scores what answers it |
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from cpt.data.prompt_keys import key, shows
from cpt.recipe.stages import StageSpec

Row = dict[str, Any]

FIELDS = ("id", "prompt", "answer", "demonstration", "completion", "chosen", "rejected", "messages", "answer_markers")
FIELDS = (*FIELDS, "raw_text", "tools", "metadata")
CHAT_FIELDS = ("prompt", "completion", "demonstration", "chosen", "rejected", "messages")
COMPLETIONS = ("completion", "demonstration", "chosen", "rejected")
TEXT_ONLY_FIELDS = ("id", "answer", "raw_text")


def called(row: Row) -> str:
    """`row tickets/train/4 (tickets.jsonl:5)`, for messages."""
    place = getattr(row, "place", "").rpartition("/")[2]
    return f"row {row['id']} ({place})" if place else f"row {row['id']}"


def prompt_of(row: Row) -> str | list:
    """The prompt; of a row that is a conversation, the messages before the last answer; of a raw text, the text."""
    if row.get("raw_text") is not None:
        return row["raw_text"]
    return row["prompt"] if row.get("prompt") is not None else conversation_prompts(row["messages"])[-1]


def trained_prompts(row: Row) -> list[str | list]:
    """Every prompt that training on the row may answer: its own, and what stands before each answer of a conversation."""
    own = [] if row.get("prompt") is None else [row["prompt"]]
    return own + (conversation_prompts(row["messages"]) if row.get("messages") is not None else [])


def conversation_prompts(messages: list) -> list[list]:
    """What stands before each answer of a conversation (of one that begins with an answer, all of it)."""
    before = [messages[:place] for place, message in enumerate(messages) if message["role"] == "assistant"]
    return [prompt for prompt in before if prompt] or [messages]


def prompt_text(prompt: str | list) -> str:
    """The prompt as one text, for people: of a chat the contents, one below the other."""
    return "\n".join(contents(prompt))


def contents(text: str | list) -> list[str]:
    """The text, or the content of each message of a chat."""
    return [text] if isinstance(text, str) else [message.get("content") or "" for message in text]


def prompt_key(prompt: str | list) -> bytes:
    """16 bytes that two prompts share if they show no difference (see `prompt_keys.normal`)."""
    return key(prompt_text(prompt))


def prompt_keys(row: Row) -> list[bytes]:
    """The keys of all `trained_prompts`; that of `prompt_of` is the first."""
    asked = prompt_of(row)
    if row.get("messages") is None:
        return [prompt_key(asked)]
    return list(dict.fromkeys(map(prompt_key, [asked, *trained_prompts(row)])))


def row_problem(row: Row) -> str | None:
    """What is wrong with a row by itself; None where nothing is."""
    for name in CHAT_FIELDS:
        value = row.get(name)
        if value is None or (isinstance(value, str) and name != "messages"):
            continue
        if not isinstance(value, list) or not value:
            kind = "a list" if name == "messages" else "a string or a list"
            return f"{name} must be {kind} of messages, not {value!r:.80}"
        for message in value:
            if isinstance(message, dict) and message.get("tool_calls") and message.get("content") is None:
                message = message | {"content": ""}  # nothing is said beside the calls
            if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
                return f"each message of {name} must be a map with role and content, not {message!r:.80}"
            if not isinstance(message["role"], str) or not message["role"]:
                return f"the role of each message of {name} must be a string, not {message['role']!r:.80}"
            if not isinstance(message["content"], str):
                return f"the content of each message of {name} must be a string, not {message['content']!r:.80}"
    for name in TEXT_ONLY_FIELDS:
        if row.get(name) is not None and not isinstance(row[name], str):
            return f"{name} must be a string, not {row[name]!r:.80}"
    try:
        tools = tools_of(row).get("tools", [])
    except ValueError as error:
        return f"tools is a text, and not one of JSON ({error}): {row['tools']!r:.80}"
    if not isinstance(tools, list) or not all(isinstance(each, dict) for each in tools):
        return f"tools must be a list of maps (JSON schemas of functions), not {row['tools']!r:.80}"
    markers = row.get("answer_markers", [])
    if not isinstance(markers, list) or not all(isinstance(each, str) for each in markers):
        return f"answer_markers must be a list of strings, not {markers!r:.80}"
    return shape_problem(row)


def shape_problem(row: Row) -> str | None:
    """What is wrong between the fields of a row, each of which is right by itself."""
    given = {name for name, value in row.items() if value is not None}
    if not given & {"prompt", "messages", "raw_text"}:
        return "has neither a prompt nor messages"
    if "raw_text" in given:
        return raw_text_problem(row, given)
    if "prompt" in given and not shows(prompt_text(row["prompt"])):
        return "prompt is empty: write a question, or leave the row out"
    for name in ("messages", *COMPLETIONS):
        value = row.get(name)
        if isinstance(value, str) and name != "rejected" and not shows(value):
            return f"{name} is empty, so there is nothing to learn: write one, or leave the row out"
        if isinstance(value, list) and all(message["role"] != "assistant" for message in value):
            return f"{name} has no turn of the assistant, so there is nothing to learn: add one"
    for one, other in (("chosen", "rejected"), ("rejected", "chosen")):
        if one in given and other not in given:
            return f"has {one} but no {other}: a preference needs both"
    if "chosen" in given and "prompt" not in given:
        return "has chosen and rejected but no prompt: add the prompt that they answer (a string or a chat)"
    if "chosen" in given and row["chosen"] == row["rejected"]:
        return f"chosen and rejected are the same ({row['chosen']!r:.60}), so there is nothing to prefer"
    for name in COMPLETIONS:
        if "prompt" in given and isinstance(row["prompt"], str) and isinstance(row.get(name), list):
            return f"prompt is a string and {name} a list of messages: write both as strings or both as messages"
    return None


def raw_text_problem(row: Row, given: set[str]) -> str | None:
    others = given & {"prompt", "messages", *COMPLETIONS}
    if others:
        return f"has raw_text and {sorted(others)[0]}: a row whose text is measured has nothing to ask"
    return None if shows(row["raw_text"]) else "raw_text is empty: write a text, or leave the row out"


def completion_messages(prompt: str | list, completion: str | list) -> str | list:
    """The completion in the prompt's form: a text after a text, an assistant's message after a chat."""
    if isinstance(prompt, str) or isinstance(completion, list):
        return completion
    return [{"role": "assistant", "content": completion}]


def completion_text(completion: str | list) -> str:
    """The text of an answer: of a list of messages that of the last."""
    return completion if isinstance(completion, str) else completion[-1].get("content") or ""


# -- what each stage trains on -------------------------------------------------------------------------------------------


def lesson(row: Row, answer: str | list) -> Row:
    """{prompt, completion}, and `tools` where the row has some: what is taught where the prompt is answered so."""
    return {"prompt": row["prompt"], "completion": completion_messages(row["prompt"], answer)} | tools_of(row)


def tools_of(row: Row) -> Row:
    """{tools} where the row has some, written as JSON or as one text of it. Raises ValueError for a text that is none."""
    tools = row.get("tools")
    return {"tools": json.loads(tools) if isinstance(tools, str) else tools} if tools else {}


def sft_row(row: Row) -> Row | None:
    """{messages} or {prompt, completion}; None where the row has no demonstration."""
    if row.get("messages") is not None:
        return {"messages": row["messages"]} | tools_of(row)
    demonstration = demonstration_of(row)
    return None if demonstration is None else lesson(row, demonstration)


def dpo_row(row: Row) -> Row | None:
    """{prompt, chosen, rejected}; without a preference the prompt to make pairs from; None where it can be neither."""
    if row.get("chosen") is not None and row.get("rejected") is not None:
        both = {name: completion_messages(row["prompt"], row[name]) for name in ("chosen", "rejected")}
        return {"prompt": row["prompt"]} | both | tools_of(row)
    return rlvr_row(row)


def rlvr_row(row: Row) -> Row | None:
    """{prompt}; None where there is none."""
    return None if row.get("prompt") is None else {"prompt": row["prompt"]} | tools_of(row)


def demonstration_of(row: Row) -> str | list | None:
    return row["demonstration"] if row.get("demonstration") is not None else row.get("completion")


def demonstrated_row(row: Row) -> Row | None:
    """As `rlvr_row`; None also where there is no demonstration."""
    return None if demonstration_of(row) is None else rlvr_row(row)


FORMS = {  # a stage's `row_form`: what it takes of a row
    "demonstration": sft_row,
    "preference": dpo_row,
    "prompt": rlvr_row,
    "prompt and demonstration": demonstrated_row,
}
NEEDS = {
    "demonstration": "a demonstration (`demonstration` or `completion`) or `messages`",
    "preference": "`chosen` and `rejected`, or a `prompt` with a verifier",
    "prompt": "a `prompt`",
    "prompt and demonstration": "a `prompt` and a demonstration (`demonstration` or `completion`)",
}


def lessons(rows: Iterable[Row], stage: StageSpec) -> list[tuple[Row, str, dict]]:
    """(row, field, {prompt, completion} or {messages}) of what a stage that teaches does so of each row."""
    taught = []
    for row in rows:
        if stage.row_form == "prompt":
            is_complete = demonstration_of(row) is not None and row.get("prompt") is not None
            taught += [(row, "demonstration", lesson(row, demonstration_of(row)))] if is_complete else []
            continue
        form = FORMS[stage.row_form](row) or {}
        if "messages" in form:
            taught.append((row, "messages", form))
        for name in ("completion", "chosen", "rejected"):
            if name in form:
                called = "demonstration" if name == "completion" and row.get("demonstration") is not None else name
                taught.append((row, called, lesson(row, form[name])))
    return taught


def in_context(row: Row, template: str) -> str | list:
    """The prompt as a self-distillation's teacher is asked it: by `template`, the demonstration put in.

    Of a chat it is the last message that the template replaces; it must be the user's (ValueError).
    """
    prompt = row["prompt"]
    chat = not isinstance(prompt, str)
    if chat and prompt[-1]["role"] != "user":
        raise ValueError(f"its prompt ends with a message of the role {prompt[-1]['role']}, not with the user's")
    texts = {"prompt": prompt[-1]["content"] if chat else prompt, "demonstration": prompt_text(demonstration_of(row))}
    asked = re.sub(r"\{(prompt|demonstration)\}", lambda match: texts[match[1]], template)
    return [*prompt[:-1], {"role": "user", "content": asked}] if chat else asked


def shape(form: Row) -> dict[str, str]:
    """{field: text or messages} of what a stage takes. Any row may have tools."""
    names = (name for name in form if name != "tools")
    return {name: "text" if isinstance(form[name], str) else "messages" for name in names}


def shape_text(shape: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in shape.items())


ASKED = ("prompt", "tools")  # what a prompt is made of


def packed(row: Row) -> dict[str, str]:
    """The columns of a stage's data set: what the row's prompt is made of, and the rest of the row, as JSON.

    Arrow gives one type to a whole column, and would change rows whose messages or metadata differ in form.
    """
    asked = {name: row[name] for name in ASKED if row.get(name) is not None}
    return {"prompt": pack(asked), "row": pack({name: row[name] for name in row if name not in asked})}


def pack(row: Row) -> str:
    """`default`: a data set of the hub may hold dates and the like."""
    return json.dumps(row, ensure_ascii=False, default=str)


def unpack(prompts: Iterable[str], rows: Iterable[str] | None = None) -> list[Row]:
    """The rows of `packed`; of the prompts alone what they are made of."""
    asked = [json.loads(text) for text in prompts]
    return asked if rows is None else [one | json.loads(text) for one, text in zip(asked, rows, strict=True)]
