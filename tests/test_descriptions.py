"""Every key of the recipe's JSON Schema is described by a whole sentence."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from cpt.recipe.json_schema import schema

VERBS = frozenset(  # a description with another verb adds it here
    re.findall(
        r"\S+",
        "accepts act adds are averages be begins changes clips come compares continue corrects covers decide decides "
        "describes end evaluates falls generates gives grows has have hold holds ignores is keeps kept learns leaves "
        "listens lowers made makes may measures move moves multiplies must needs obtained raises reads "
        "requires restores runs samples score sleeps starts stops takes teaches trains uses was writes",
    )
)


def described_keys(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(place, description) of every key that the schema allows in a recipe, at any depth."""
    if isinstance(node, dict):
        for key, each in node.get("properties", {}).items() if isinstance(node.get("properties"), dict) else ():
            yield f"{place}.{key}", each.get("description", "")
        for key, each in node.items():
            yield from described_keys(each, f"{place}.{key}")
    elif isinstance(node, list):
        for number, each in enumerate(node):
            yield from described_keys(each, f"{place}.{number}")


def what_is_missing(description: str) -> str | None:
    """What the description lacks of a whole sentence, or None."""
    text = " ".join(description.split())
    if not re.match(r"[A-Z`]", text):
        return "begins with neither a capital nor a key in backquotes"
    if not text.endswith("."):
        return "does not end with a period"
    words = re.findall(r"[a-z-]+", re.sub(r"`[^`]*`", " ", text))
    return None if VERBS.intersection(words) else "has no verb that this test knows"


def test_every_key_of_the_schema_is_described_by_a_whole_sentence():
    keys = list(described_keys(schema()))
    assert len(keys) > 500
    assert [f"{place} {what}: {text!r}" for place, text in keys if (what := what_is_missing(text))] == []


@pytest.mark.parametrize(
    ("description", "what"),
    [
        ("", "begins"),
        ("of the KL (TRL's default)", "begins"),
        ("The learning rate is multiplied by this", "period"),
        ("The seed of the rows, never the training seed.", "verb"),
    ],
)
def test_half_a_sentence_is_found(description, what):
    assert what in what_is_missing(description)
    assert what_is_missing("The rows are drawn with this seed.") is None
