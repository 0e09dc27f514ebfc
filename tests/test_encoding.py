"""Token ids of prompts and of what training teaches, for tokenizers and templates of different habits; what is refused."""

import pytest
from tokenizers import normalizers, pre_tokenizers

from cpt.checks.findings import Findings
from cpt.checks.template import check_rewritten_answers
from cpt.data.roundtrip import failure
from cpt.recipe import SuiteTask
from helpers.contexts import stage_and_services
from helpers.fake_tokenizers import CHATML, SPECIAL, byte_level, encoder, metaspace

STOP = "<|im_end|>"  # where an instruct model of these tests stops
QUESTION = "question: which colour? answer:"


def user(text: str, role: str = "user") -> dict:
    return {"role": role, "content": text}


def assistant(text: str, **more) -> dict:
    return {"role": "assistant", "content": text, **more}


CHAT = [user(QUESTION)]
TALK = [user("red"), assistant("yes"), user("blue"), assistant("no")]
GENERATED = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n")
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
NO_TURN = CHATML.split("{% if add")[0]
NO_END = (
    "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant: {% endif %}"
)
OTHERWISE = "{% if add_generation_prompt %}asked: {% endif %}" + CHATML
TRIMMED = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")
LAST_ONLY = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
ROLES = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role in ('user', 'assistant') %}")
CALLS = CHATML.replace(
    "<|im_end|>\n{% endfor", "{% for c in m.tool_calls or [] %}[{{ c.function.name }}]{% endfor %}<|im_end|>\n{% endfor"
)


def one(encoder, form: dict):
    """What is taught of one lesson: (asked, what follows it), as text."""
    [taught] = encoder.taught([form])
    return encoder.shown(taught.asked), encoder.shown(taught.ids[taught.answer :])


def kind(encoder, form: dict) -> tuple[str, bool] | None:
    [taught] = encoder.taught([form])
    found = failure(encoder, form, taught)
    return found and (found.kind, found.fatal)


def lesson(answer="yes", prompt=QUESTION, **more) -> dict:
    return {"prompt": prompt, "completion": answer} | more


# -- how a string is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokenizer, stops, options, chat, why",
    [
        (byte_level(), (STOP,), {}, True, "ends answers with '<|im_end|>'"),
        (
            byte_level(),
            (),
            {},
            False,
            "the model stops at '<|end|>', but its chat template does not end answers with that",
        ),
        (byte_level(None), (STOP,), {}, False, "no chat template"),
        (byte_level(THINKING), (STOP,), {"enable_thinking": False}, True, ""),
        (
            byte_level(THINKING),
            (STOP,),
            {},
            True,
            "",
        ),  # its answers begin with a reasoning: an instruct model's all the same
        (byte_level("{{ raise_exception('not so') }}"), (STOP,), {}, False, "fails on a plain question: not so"),
        (byte_level("{{ messages[0].content.nothing.at.all }}"), (STOP,), {}, False, "fails on a plain question"),
        (byte_level(normalizer=normalizers.Replace("Yes", "")), (STOP,), {}, False, "cannot encode a plain question"),
    ],
)
def test_strings_are_sent_as_chats_to_an_instruct_model(tokenizer, stops, options, chat, why):
    made = encoder(tokenizer, *stops, options=options)
    assert made.form.chat is chat and why in made.form.why
    for name in ("chat", "raw"):
        assert encoder(tokenizer, *stops, options=options, prompt=name).form.name == name


def test_the_letters_of_the_toy_model_are_sent_as_they_are(tiny_folder):
    from cpt.data import encoding
    from cpt.recipe import load

    recipe = load("quickstart")
    made = encoding.load(tiny_folder, tiny_folder, recipe).of(recipe.stream[0])
    assert made.form == (False, "the tokenizer cannot encode a plain question")


def test_a_string_and_the_chat_that_it_stands_for():
    made = encoder(byte_level(), STOP)
    wanted = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert [made.shown(ids) for ids in made.prompts([{"prompt": QUESTION}, {"prompt": CHAT}])] == [wanted] * 2
    assert one(made, lesson()) == one(made, lesson(prompt=CHAT)) == (wanted, "yes<|im_end|>"), "no line end after it"
    raw = encoder(byte_level(), STOP, prompt="raw")
    assert one(raw, lesson(" yes")) == (QUESTION, " yes<|end|>")
    assert [raw.shown(ids) for ids in raw.prompts([{"prompt": CHAT}])] == [wanted], (
        "a chat is one however strings are sent"
    )


def test_the_system_message():
    made = encoder(byte_level(), STOP, system="be brief")
    for prompt in (QUESTION, CHAT):
        assert one(made, lesson(prompt=prompt))[0].startswith(
            "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user"
        )
    own = [user("be kind", "system"), *CHAT]
    assert "brief" not in one(made, lesson(prompt=own))[0]
    assert "be brief" in made.shown(made.taught([{"messages": TALK}])[0].ids)


# -- what is taught ----------------------------------------------------------------------------------------------------------


def test_a_stop_of_the_task_ends_what_is_taught():
    made = encoder(byte_level(NO_END), stop=("\n",))
    assert one(made, lesson(prompt=CHAT)) == (f"### user: {QUESTION}\n### assistant: ", "yes\n")
    assert made.text(made.taught([lesson(prompt=CHAT)])[0].completion) == "yes", "the stop is not part of the answer"
    raw = encoder(byte_level(None), stop=("\n",))
    assert one(raw, lesson("yes\n"))[1] == "yes\n" and one(raw, lesson("yes"))[1] == "yes<|end|>"


def test_tokens_that_would_merge_over_the_border_stay_apart():
    tokenizer = byte_level(None)
    made = encoder(tokenizer)
    form = lesson("yes", prompt=f"{QUESTION} ")
    [taught] = made.taught([form])
    assert taught.merges and taught.ids[: len(taught.asked)] == taught.asked == made.prompts([form])[0]
    assert made.text(taught.completion) == "yes" and kind(made, form) == ("border", False)
    assert not made.taught([lesson(" yes")])[0].merges
    colons = CHATML.replace("{{ m.role }}\n", "{{ m.role }}: ").replace("assistant\n", "assistant: ")
    chat = encoder(byte_level(colons), STOP)
    assert chat.taught([form])[0].merges
    assert one(chat, lesson("yes"))[1] == "yes<|im_end|>"


def test_a_tokenizer_that_begins_texts_by_itself():
    made = encoder(metaspace())
    asked, taught = (
        made.prompts([{"prompt": "which colour?"}])[0],
        made.taught([lesson(" red", prompt="which colour?")])[0],
    )
    assert taught.ids[: len(asked)] == asked and made.tokenizer.decode(asked[:1]) == "<s>"
    assert taught.ids.count(asked[0]) == 1 and made.shown(taught.completion[-1:]) == "<|end|>"
    assert kind(made, lesson(" red", prompt="which colour?")) in (None, ("white space", False))
    assert made.appended == [] and encoder(byte_level(None, appends=True)).appended == [0]


def test_conversations():
    made = encoder(byte_level(), STOP)
    [taught] = made.taught([{"messages": TALK}])
    whole = made.shown(taught.ids)
    assert taught.start == 0 and whole.count("<|im_end|>") == 4 and whole.endswith("no<|im_end|>")
    assert made.shown(taught.asked).endswith("blue<|im_end|>\n<|im_start|>assistant\n")
    spans, elsewhere = made.answers({"messages": TALK}, taught)
    assert [made.shown(taught.ids[start:end]) for start, end in spans] == [
        "yes<|im_end|>",
        "no<|im_end|>",
    ] and not elsewhere
    more = {"messages": [*TALK, user("green")]}
    [taught] = made.taught([more])
    assert made.shown(taught.ids).endswith("green<|im_end|>\n") and made.shown(taught.completion) == "no<|im_end|>"
    steps = lesson([assistant("red"), user("7", "tool"), assistant("yes")], prompt=CHAT)
    [taught] = made.taught([steps])
    assert (
        made.shown(taught.ids[taught.start :]).startswith("red<|im_end|>")
        and made.shown(taught.completion) == "yes<|im_end|>"
    )
    assert made.taught([{"messages": TALK[1:2]}])[0].asked is None


def test_an_earlier_answer_that_is_written_otherwise_is_context():
    """A template that drops the reasoning of earlier turns."""
    made = encoder(byte_level(THINKING), STOP, options={"enable_thinking": False})
    talk = [user("red"), assistant("yes"), user("blue"), assistant("no", reasoning_content="")]
    [taught] = made.taught([{"messages": talk}])
    spans, elsewhere = made.answers({"messages": talk}, taught)
    assert len(spans) == 1 and elsewhere == 1


def test_many_rows_at_once_are_what_each_is_alone():
    made = encoder(byte_level(), STOP, prompt="raw")
    forms = [
        lesson(),
        lesson(prompt=CHAT),
        {"messages": TALK},
        lesson(" no", prompt=f"{QUESTION} "),
        lesson(prompt=CHAT),
    ]
    assert made.taught(forms) == [made.taught([form])[0] for form in forms]
    rows = [{"prompt": QUESTION}, {"prompt": CHAT}, {"prompt": CHAT, "tools": [{"name": "add"}]}, {"prompt": "red"}]
    assert made.prompts(rows) == [made.prompts([row])[0] for row in rows]


# -- what verifiers are given ------------------------------------------------------------------------------------------------


def test_special_tokens_are_stripped_or_kept():
    tokenizer = byte_level(None, (*SPECIAL, "<answer>", "</answer>"))
    form = lesson("<answer>yes</answer>")
    stripped, kept = encoder(tokenizer), encoder(tokenizer, special_tokens="keep")
    [taught] = kept.taught([form])
    assert kept.text(taught.completion) == "<answer>yes</answer>" and stripped.text(taught.completion) == "yes"
    assert kind(kept, form) is None and kind(stripped, form) == ("special tokens", True)
    assert kept.text([]) == "" and kept.text(taught.completion[:-1]) == "<answer>yes</answer>", "cut off"


@pytest.mark.parametrize(
    "normalizer, answer, verifier, told",
    [
        (
            normalizers.Lowercase(),
            "Yes",
            {"kind": "exact"},
            "writes its answer 'Yes' as 'yes', which exact scores as wrong",
        ),
        (
            normalizers.NFKC(),
            "x\u00b2",
            {"kind": "exact"},
            "writes its answer 'x\u00b2' as 'x2', which exact scores as wrong",
        ),
        (normalizers.Lowercase(), "Yes", {"kind": "exact", "ignore_case": True}, None),
        (normalizers.Lowercase(), "Yes", {"kind": "label", "labels": ["Yes", "No"]}, None),
        (normalizers.Lowercase(), "yes", {"kind": "exact"}, None),
        (None, "Yes", {"kind": "exact"}, None),
    ],
)
def test_answers_that_the_tokenizer_would_write_otherwise(normalizer, answer, verifier, told):
    findings, rows = Findings(), [{"id": "t/eval/0", "prompt": "q", "answer": answer}]
    task = {"task": "t", "data": {"source": "file", "eval": "rows.jsonl"}, "reward": verifier}
    made = encoder(byte_level(None, normalizer=normalizer))
    check_rewritten_answers("tasks.t.data.eval", SuiteTask.model_validate(task), rows, made, findings)
    assert [told in problem.message for problem in findings.problems] == [True] * (told is not None)


def test_an_answer_is_read_to_the_letter():
    made = encoder(byte_level(None))
    for text in ("a , b . c 's", "  two  spaces ", "tab\tline\n", "ünï 漢字 🙂"):
        assert made.text(made.taught([lesson(text)])[0].completion) == text


def test_texts_of_bytes_that_have_tokens_need_not_be_looked_at(tiny_folder):
    from cpt import tiny
    from cpt.checks.tokenizer_coverage import byte_letters, lost_bytes, unspellable

    whole = byte_level()
    assert lost_bytes(whole) == frozenset() and not list(unspellable(whole, ["\x00ü漢🙂\t"]))
    assert [whole.decode(whole(chr(byte))["input_ids"]) for byte in (0, 10, 32, 65)] == ["\x00", "\n", " ", "A"]
    assert sorted(byte_letters()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert byte_letters()[ord(" ")] == "Ġ" and byte_letters()[ord("\n")] == "Ċ"
    assert lost_bytes(byte_level(normalizer=normalizers.Lowercase())) is None
    assert lost_bytes(byte_level(normalizer=normalizers.NFC())) == frozenset()
    assert lost_bytes(metaspace()) is lost_bytes(tiny.tokenizer()) is None


# -- what is refused, with its remedy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokenizer, stops, form, found, words",
    [
        (byte_level(), (), lesson(prompt=CHAT), "no end", 'set `stop: ["<|im_end|>"]` in the task'),
        (byte_level(NO_END), (), lesson(prompt=CHAT), "no end", 'set `stop: ["\\n"]` in the task'),
        (byte_level(NO_TURN), (STOP,), lesson(), "generation prompt", "add_generation_prompt"),
        (byte_level(GENERATED), (STOP,), lesson(), "prompt", "evaluation sends ..."),
        (byte_level(OTHERWISE), (STOP,), lesson(), "prompt", "writes a prompt differently when an answer follows"),
        (byte_level(THINKING), (STOP,), lesson(), "added text", "{enable_thinking: false}"),
        (byte_level(LAST_ONLY), (STOP,), lesson("why</think>yes"), "changed text", "as 'yes', and the demonstration is 'why"),
        (byte_level(), (STOP,), lesson("yes<|im_end|>no"), "early end", "'<|im_end|>' within it ends an answer"),
        (byte_level(None), (), lesson("yes<|end|>no"), "early end", "'<|end|>' within it"),
        (byte_level(None, normalizer=normalizers.Lowercase()), (), lesson("Yes"), "changed text", "the tokenizer writes it"),
        (
            byte_level(),
            (STOP,),
            {"messages": [user("go"), assistant("", tool_calls=[{"function": {"name": "move", "arguments": {}}}])]},
            "tool calls",
            "leaves the tool_calls out",
        ),
        (
            byte_level(),
            (STOP,),
            lesson([assistant("yes", reasoning_content="because")], prompt=CHAT),
            "part of an answer",
            "leaves 'because' out",
        ),
    ],
)  # fmt: skip
def test_what_would_be_taught_in_vain(tokenizer, stops, form, found, words):
    made = encoder(tokenizer, *stops)
    [taught] = made.taught([form])
    wrong = failure(made, form, taught)
    assert wrong is not None and wrong.kind == found and wrong.fatal, wrong
    assert words in wrong.message and "\n" not in wrong.message, wrong.message


@pytest.mark.parametrize(
    "tokenizer, stops, form, found",
    [
        (byte_level(), (STOP,), lesson(), None),
        (byte_level(), (STOP,), lesson("yes<|im_end|>"), None),  # its end is spelt out
        (byte_level(None), (), lesson("yes<|end|>"), None),
        (byte_level(THINKING), (STOP,), lesson([assistant("yes", reasoning_content="so")], prompt=CHAT), None),
        (byte_level(TRIMMED), (STOP,), lesson(" yes\n"), ("white space", False)),
        (byte_level(None, normalizer=normalizers.NFKC()), (), lesson("ﬁve"), ("white space", False)),
        (
            byte_level(CALLS),
            (STOP,),
            {"messages": [user("go"), assistant("", tool_calls=[{"function": {"name": "move", "arguments": {}}}])]},
            None,
        ),
        (byte_level(), (STOP,), {"messages": TALK}, None),
        (byte_level(NO_END), (STOP,), {"messages": TALK[1:2]}, None),  # nothing can ask for it
    ],
)
def test_what_is_taught_as_it_is_asked(tokenizer, stops, form, found):
    assert kind(encoder(tokenizer, *stops), form) == found


def test_a_long_difference_is_shown_where_it_is():
    made = encoder(byte_level(None, normalizer=normalizers.Lowercase()))
    form = lesson("a" * 200 + "B" + "c" * 200)
    message = failure(made, form, made.taught([form])[0]).message
    assert "aB" in message and "ab" in message and len(message) < 500


def test_sampled_answers_that_would_be_taught_otherwise_are_left_out(monkeypatch):
    from types import SimpleNamespace

    from cpt.errors import UserError
    from cpt.stages.examples import teachable

    made, warned = encoder(byte_level(LAST_ONLY), STOP), []
    screen = SimpleNamespace(warn=warned.append)
    stage, services = stage_and_services(screen=screen, task=SimpleNamespace(name="t"), name="0-rejection")
    answers = [lesson("yes"), lesson("why</think>no")]
    assert teachable(stage, services, made, answers) == answers[:1] and "1 of 2 sampled answers" in services.notes[0]
    assert "'no', and the demonstration is 'why</think>no'" in warned[0]
    pairs = [{"prompt": QUESTION, "chosen": "yes", "rejected": each} for each in ("why</think>no", "no")]
    assert teachable(stage, services, made, pairs) == pairs[1:]
    with pytest.raises(UserError, match="none of 1 sampled answers can be trained on as it was sampled"):
        teachable(stage, services, made, answers[1:])
    assert teachable(stage, services, made, []) == []
