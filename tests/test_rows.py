"""Rows: the key by which prompts are compared, what is wrong with a row, and the forms that each stage takes."""

import pytest

from cpt.data import rows

CHAT = [{"role": "user", "content": "2+2"}]
ANSWER = [{"role": "assistant", "content": "4"}]


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("What is it?", "  what IS\n it? ", True),
        ("ｗｈａｔ", "what", True),  # full width
        ("a b", "ab", False),
        ("wh\u200bat\ufeff", "what", True),  # zero width
        ("wh\u00adat \u200e\u202eis", "what is", True),  # soft hyphen, marks of direction
        ("what\u00a0\u2003\u3000\u2800\u2028is", "what is", True),  # spaces that are none of ASCII's
        ("what\ufe0f\U000e0041\u3164\u034f", "what", True),  # variation selector, tag, filler, joiner
        ("what\x00\x07\x7f", "what", True),
        ("cafe\u0301", "caf\u00e9", True),
        ("don\u2019t \u201csay\u201d 5\u22123", 'don\'t "say" 5-3', True),
        ("resume", "r\u00e9sum\u00e9", False),
        ("\u0430", "a", False),  # a Cyrillic letter is another one
        ([{"role": "user", "content": "what"}], "what", True),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "what"}], "what", False),
    ],
)
def test_prompts_are_compared_as_people_would(one, other, same):
    assert (rows.prompt_key(one) == rows.prompt_key(other)) is same


@pytest.mark.parametrize(
    "row, problem",
    [
        ({"prompt": "a"}, None),
        ({"prompt": CHAT, "completion": "4"}, None),
        ({"messages": CHAT + ANSWER}, None),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, None),
        ({"prompt": CHAT, "chosen": "b", "rejected": ANSWER}, None),
        ({"messages": CHAT}, "messages has no turn of the assistant"),
        ({"prompt": CHAT, "demonstration": CHAT}, "demonstration has no turn of the assistant"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n"}, "prompt is empty"),
        ({"prompt": "\u200b\u2800\ufeff"}, "prompt is empty"),
        ({"prompt": "a", "demonstration": " "}, "demonstration is empty"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, "chosen is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, None),
        ({"prompt": [{"role": "user", "content": ""}]}, "prompt is empty"),
        ({"prompt": "a", "chosen": "b"}, "has chosen but no rejected"),
        ({"prompt": "a", "rejected": "b"}, "has rejected but no chosen"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same ('b')"),
        ({"messages": CHAT + ANSWER, "chosen": "b", "rejected": "c"}, "has chosen and rejected but no prompt"),
        ({"prompt": "a", "demonstration": ANSWER}, "prompt is a string and demonstration a list of messages"),
        ({"prompt": "a", "chosen": ANSWER, "rejected": "b"}, "prompt is a string and chosen a list of messages"),
        ({"answer": "a"}, "has neither a prompt nor messages"),
        ({"prompt": 3}, "prompt must be a string or a list of messages, not 3"),
        ({"prompt": []}, "prompt must be a string or a list of messages, not []"),
        ({"messages": "hello"}, "messages must be a list of messages, not 'hello'"),
        ({"prompt": [{"role": "user"}]}, "each message of prompt must be a map with role and content"),
        ({"prompt": [{"role": "user", "content": ["a"]}]}, "the content of each message of prompt must be a string"),
        ({"prompt": [{"role": None, "content": "a"}]}, "the role of each message of prompt must be a string, not None"),
        ({"prompt": "a", "answer_markers": "->"}, "answer_markers must be a list of strings, not '->'"),
        ({"prompt": "a", "answer": ["b"]}, "answer must be a string, not ['b']"),
    ],
)
def test_what_is_wrong_with_a_row(row, problem):
    found = rows.row_problem(row)
    assert found is None if problem is None else found.startswith(problem)


def test_sft_forms():
    assert rows.sft_row({"prompt": "q", "demonstration": "a"}) == {"prompt": "q", "completion": "a"}
    assert rows.sft_row({"prompt": "q", "completion": "a"}) == {"prompt": "q", "completion": "a"}
    answer = [{"role": "assistant", "content": "4"}]
    assert rows.sft_row({"prompt": CHAT, "demonstration": "4"}) == {"prompt": CHAT, "completion": answer}
    assert rows.sft_row({"messages": CHAT + answer, "prompt": "x"}) == {"messages": CHAT + answer}
    assert rows.sft_row({"prompt": "q", "answer": "a"}) is None


def test_dpo_forms():
    pair = {"prompt": CHAT, "chosen": "4", "rejected": "5"}
    assert rows.dpo_row(pair)["chosen"] == [{"role": "assistant", "content": "4"}]
    assert rows.dpo_row({"prompt": "q", "chosen": "4", "rejected": "5"}) == {
        "prompt": "q",
        "chosen": "4",
        "rejected": "5",
    }
    assert rows.dpo_row({"prompt": "q", "answer": "4"}) == {"prompt": "q"}  # pairs are made from the model


def test_nothing_is_lost_on_the_way_to_the_verifier():
    row = {"id": "r1", "prompt": CHAT, "answer": "4", "metadata": {"deep": [1, {"a": None}], "text": "ä"}}
    for each in (row, row | {"tools": [{"name": "add"}]}, {"id": "r2", "messages": CHAT, "tools": None}):
        made = rows.packed(each)
        assert rows.unpack([made["prompt"]], [made["row"]]) == [each]
    assert rows.unpack([rows.packed(row)["prompt"]]) == [{"prompt": CHAT}]
    assert rows.rlvr_row({"messages": CHAT}) is None


def test_the_prompt_of_a_conversation():
    talk = [*CHAT, {"role": "assistant", "content": "4"}]
    assert rows.prompt_of({"messages": talk}) == CHAT
    assert rows.prompt_of({"prompt": "q", "messages": talk}) == "q"


def test_the_prompts_that_a_conversation_answers():
    """Each of its answers is trained on."""
    first, second = CHAT + ANSWER, [*CHAT, *ANSWER, {"role": "user", "content": "and 3+3"}]
    talk = {"messages": [*second, {"role": "assistant", "content": "6"}]}
    assert rows.prompt_of(talk) == second
    assert rows.trained_prompts(talk) == [CHAT, second]
    assert rows.trained_prompts(talk | {"prompt": "q"}) == ["q", CHAT, second]
    assert rows.trained_prompts({"messages": ANSWER}) == [ANSWER] and rows.prompt_of({"messages": first}) == CHAT
