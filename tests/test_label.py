"""Which label a completion names: a table by hand."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpt.recipe import load
from cpt.recipe.rewards import Label
from cpt.rewards import build
from cpt.rewards.label import reader
from helpers.recipes import mistakes, recipe, write_recipe

TONE = ["positive", "negative"]
NOT = ["positive", "not positive", "negative"]
NEWS = ["World", "World News", "Sports", "Sci/Tech"]
ENTAIL = ["entailment", "not_entailment"]


@pytest.mark.parametrize(
    "labels, completion, named",
    [
        (TONE, "positive", "positive"),
        (TONE, "**Positive**", "positive"),
        (TONE, "_positive_", "positive"),
        (TONE, "`NEGATIVE`", "negative"),
        (TONE, "# Positive", "positive"),
        (TONE, "> negative", "negative"),
        (TONE, "The sentiment is POSITIVE.", "positive"),
        (TONE, "Positive! It really is positive.", "positive"),
        (TONE, "pos\u200bitive", "positive"),
        (TONE, "ｐｏｓｉｔｉｖｅ", "positive"),
        (TONE, "\\boxed{\\text{positive}}", "positive"),
        (TONE, '{"label": "positive"}', "positive"),
        (TONE, "<label>positive</label>", "positive"),
        (TONE, "<positive>", "positive"),
        (TONE, "positive or negative", None),
        (TONE, "positive, not negative", None),
        (TONE, "not positive", None),
        (TONE, "It isn't positive", None),
        (TONE, "This is not a positive review", None),
        (TONE, "non-positive", None),
        (TONE, "Positive is wrong.", None),
        (TONE, "positively", None),
        (TONE, "unpositive", None),
        (TONE, "positive-ish", None),
        (TONE, "#positive", None),
        (TONE, "", None),
        (TONE, "neutral", None),
        (TONE, "<think>positive or negative?</think>\nNegative", "negative"),
        (TONE, "<think>positive", None),
        (TONE, "这是positive的", "positive"),
        (NOT, "positive", "positive"),
        (NOT, "Not  Positive.", "not positive"),
        (NOT, "not\npositive", "not positive"),
        (NOT, "not_positive", "not positive"),
        (NOT, "not **positive**", "not positive"),
        (NOT, "It is not positive, it is negative", None),
        (NEWS, "World", "World"),
        (NEWS, "World News", "World News"),
        (NEWS, "world-news", "World News"),
        (NEWS, "World and World News", None),
        (NEWS, "Worldwide", None),
        (NEWS, "Label: Sci/Tech.", "Sci/Tech"),
        (NEWS, "sci / tech", "Sci/Tech"),
        (NEWS, "World news, not Sports", None),
        (ENTAIL, "not_entailment", "not_entailment"),
        (ENTAIL, "not\\_entailment", "not_entailment"),
        (ENTAIL, "Entailment", "entailment"),
        (["entailment", "neutral"], "not_entailment", None),
        (["card_arrival", "card_linking"], "card arrival", "card_arrival"),
        (["card_arrival", "card_linking"], "`Card_Arrival`", "card_arrival"),
        (["card_arrival", "card_linking"], "card_arrival_time", None),
        (["1", "2", "10"], "10", "10"),
        (["1", "2", "10"], "1.", "1"),
        (["1", "2", "10"], "1.5", None),
        (["1", "2", "10"], "12", None),
        (["1", "2", "10"], "2%", None),
        (["-1", "0", "1"], "-1", "-1"),
        (["-1", "0", "1"], "1", "1"),
        (["-1", "0", "1"], "\u22121", "-1"),
        (["<=50K", ">50K"], "<= 50K", "<=50K"),
        (["<=50K", ">50K"], "> 50k", ">50K"),
        (["C", "C++", "C#"], "C++", "C++"),
        (["C", "C++", "C#"], "C#.", "C#"),
        (["C", "C#"], "C++", None),
        (["yes", "no"], "No.", "no"),
        (["yes", "no"], "no, not yes", None),
        (["Café", "Bar"], "CAFE\u0301", "Café"),
        (["Straße", "Weg"], "STRASSE", "Straße"),
        (["正面", "负面"], "这是正面的评价。", "正面"),
        (["正面", "负面"], "不是正面", None),
        (["긍정", "부정"], "긍정입니다", "긍정"),
        ([":)", ":("], "I say :)", ":)"),
        (["4 stars", "5 stars"], "**5 Stars**", "5 stars"),
    ],
)
def test_the_label_that_is_named(labels, completion, named):
    assert reader({"labels": labels})(completion, {}) == named


def test_the_score():
    judge = build({"kind": "label", "labels": ENTAIL})
    assert judge("**Not entailment**", {"answer": "not_entailment"}) == 1.0
    assert judge("Entailment", {"answer": "not_entailment"}) == 0.0
    assert judge("entailment", {"answer": "entailment", "finished": False}) == 0.0


WORDS = [
    "positive",
    "not",
    "no",
    "World",
    "-1",
    "C++",
    "5%",
    "<=50K",
    ">50K",
    "#tag",
    "I'm",
    "x_y",
    "sci/tech",
    "正面",
    "*",
    "# a",
    "1.5",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), st.text(min_size=1, max_size=6)
        ),
        min_size=2,
        max_size=4,
    )
)
def test_every_label_that_a_recipe_may_have_names_itself(labels):
    try:
        judge = Label(kind="label", labels=labels).model_dump()
    except ValueError:
        return
    assert [reader(judge)(label, {}) for label in labels] == labels


def test_only_what_follows_a_marker():
    judge = build({"kind": "label", "labels": TONE, "after": ["Answer:"]})
    assert judge("positive or negative? Answer: negative", {"answer": "negative"}) == 1.0


def test_it_is_reward_and_metric_and_can_be_voted_on(tmp_path):
    content = recipe("rlvr", tasks=("reverse",))
    content["stream"][0]["reward"] = {"kind": "label", "labels": ["yes", "no", 0]}
    content["stream"][0]["stages"][0]["ttrl"] = {}
    task = load(write_recipe(tmp_path / "recipe.yaml", content)).stream[0]
    assert task.verifier.labels == ("yes", "no", "0")


@pytest.mark.parametrize(
    "labels, said",
    [
        (["positive"], "at least two"),
        (["Not-entailment", "not_entailment"], "the labels 'Not-entailment' and 'not_entailment' are one"),
        (["yes", " "], "the label ' ' has nothing that could be found in an answer"),
        (["yes", True], "true is a truth value in YAML, not a text: put quotes around it"),
        ("yes", "a list"),
        (["yes", 1.5], "a string"),
    ],
)
def test_labels_that_cannot_be_told_apart(labels, said, tmp_path):
    content = recipe("sft", tasks=("reverse",))
    content["stream"][0]["reward"] = {"kind": "label", "labels": labels}
    [line] = mistakes(tmp_path, content)
    assert "reward" in line and "labels" in line and said in line, line


@pytest.mark.parametrize(
    "piece", [" ", "positive", "positive ", "not ", "World ", "World - ", "-", "_", "n't ", "a_", "World  "]
)
def test_its_time_is_linear_in_the_text(piece):
    began = time.process_time()
    reader({"labels": [*NOT, *NEWS]})(piece * (40_000 // len(piece)), {})
    assert time.process_time() - began < 5.0
