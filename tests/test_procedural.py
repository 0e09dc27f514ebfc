"""The letter tasks: right answers, splits that cannot meet, and the same rows for the same seed."""

import itertools

import pytest

from cpt import skills
from cpt.data import procedural
from cpt.errors import UserError
from cpt.recipe import Procedural

BY_HAND = {
    "copy": "badce",
    "last": "e",
    "max": "e",
    "succ": "cbedf",
    "swap": "eadcb",
    "reverse": "ecdab",
    "sort": "abcde",
    "rot": "dceba",
    "dedup": "badce",
    "evens": "bde",
    "add": "bbffi",
}


@pytest.mark.parametrize("skill", BY_HAND)
def test_skills_by_hand(skill):
    assert skills.SKILLS[skill]("badce") == BY_HAND[skill]


def test_caesar_by_hand():
    assert skills.SKILLS["caesar"]("abcdj") == "hijag"  # seven letters on, in a circle of ten


def test_dedup_keeps_the_first():
    assert skills.SKILLS["dedup"]("abacb") == "abc"


def test_succ_goes_round():
    assert skills.SKILLS["succ"]("aij") == "bja"


@pytest.mark.parametrize("text, said", [("a", "a"), ("ab", "a"), ("abc", "ac"), ("jihg", "jh"), ("abcdef", "ace")])
def test_evens_counts_places_from_nought(text, said):
    assert skills.SKILLS["evens"](text) == said


@pytest.mark.parametrize("text, said", [("a", "a"), ("aaaaa", "abcde"), ("jjjj", "jabc"), ("a" * 12, "abcdefghijab")])
def test_add_shifts_by_the_place_and_goes_round(text, said):
    assert skills.SKILLS["add"](text) == said


def test_old_skills_keep_their_places():
    """A skill's place picks its rows, so a new one may only be appended."""
    places = "copy last max succ swap reverse sort rot caesar dedup evens add"
    assert list(skills.SKILLS) == places.split()


@pytest.mark.parametrize("skill", skills.SKILLS)
def test_the_embedded_model_can_spell_every_row(skill):
    from cpt import tiny

    spell = tiny.tokenizer()
    for row in procedural.rows(skill, "train", 20, demonstration="sentence"):
        for text in (row["prompt"][0]["content"], row["demonstration"]):
            ids = spell(text)["input_ids"]
            assert spell.pad_token_id not in ids and spell.decode(ids) == text


def test_what_the_embedded_model_is_made_of_stays():
    from cpt import tiny

    assert not {"evens", "add"} & {*tiny.GENERAL, *tiny.NEW}
    assert {*tiny.GENERAL, *tiny.NEW, "evens", "add"} == set(skills.SKILLS)


def test_splits_are_apart_for_every_seed_and_size():
    seen = {}
    for split, seed, count in itertools.product(("train", "validation", "eval"), (0, 7), (50, 500)):
        for row in procedural.rows("sort", split, count, seed=seed):
            text = row["prompt"][0]["content"]
            assert seen.setdefault(text, split) == split, "a string is in two splits"


def test_no_string_twice_and_the_same_again():
    rows = procedural.rows("sort", "train", 3000, seed=3)
    assert len({row["prompt"][0]["content"] for row in rows}) == 3000
    assert rows == procedural.rows("sort", "train", 3000, seed=3)
    assert rows != procedural.rows("sort", "train", 3000, seed=4)


def test_long_strings_are_drawn_not_listed():
    rows = procedural.rows("copy", "eval", 500, length=30)
    assert len({row["answer"] for row in rows}) == 500
    assert all(skills.split_of(row["answer"]) == "eval" for row in rows)


@pytest.mark.parametrize(
    "style, said", [("terse", "cba"), ("restate", "abc->cba"), ("sentence", "so ans is: cba."), ("spaced", "c b a")]
)
def test_demonstrations_are_judged_right(style, said):
    from cpt.rewards import build

    assert procedural.DEMONSTRATIONS[style]("abc", "cba") == said
    judge = build({"kind": "exact"})
    row = {"answer": "cba", "answer_markers": procedural.ANSWER_MARKERS}
    assert judge(said, row) == 1.0
    assert judge(said.replace("cba", "cbb").replace("c b a", "c b b"), row) == 0.0


def test_too_many_rows():
    with pytest.raises(UserError, match="ask for fewer, or raise data"):
        procedural.rows("sort", "eval", 500, length=3)


def test_unknown_skill():
    with pytest.raises(UserError, match="no skill 'revers'; did you mean reverse"):
        procedural.rows("revers", "eval", 5)


def test_every_option_changes_the_rows():
    from cpt.data.sources import load

    plain = Procedural(source="procedural", name="sort", train=5)
    first = load(plain, "train", "sort", 0)
    for change in ({"length": 6}, {"demonstration": "terse"}, {"name": "copy"}):
        assert load(plain.model_copy(update=change), "train", "sort", 0) != first, change
    assert load(plain, "train", "sort", 1) != first
