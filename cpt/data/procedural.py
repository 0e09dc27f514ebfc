"""The letter tasks: rows of the letter skills (`cpt.skills`), with exact answers, made on the spot in any number."""

from collections.abc import Callable

import numpy as np

from cpt.errors import UserError, listed, nearest
from cpt.skills import LISTED, SKILLS, alphabet, every_string, strings

ANSWER_MARKERS = ["->", ":"]  # a demonstration may show its work; the answer follows the last of these

DEMONSTRATIONS: dict[str, Callable[[str, str], str]] = {
    "terse": lambda text, answer: answer,
    "restate": lambda text, answer: f"{text}->{answer}",
    "sentence": lambda text, answer: f"so ans is: {answer}.",
    "spaced": lambda text, answer: " ".join(answer),
}


def check_count(name: str, split: str, count: int, length: int) -> None:
    """Raises UserError for a skill that does not exist, or where a split has not that many strings to draw."""
    check_skill(name)
    total = len(alphabet(name)) ** length
    if count <= total // 20:  # the smallest split has a tenth
        return
    if total > LISTED:
        raise UserError(
            f"procedural: {count} {split} rows are too many for strings of length {length}: raise data.length"
        )
    available = len(every_string(alphabet(name), length)[split])
    if available < count:
        raise UserError(
            f"procedural: {count} {split} rows were asked for, but only {available} strings of length {length} belong "
            f"to that split: ask for fewer, or raise data.length"
        )


def check_skill(name: str) -> None:
    """Raise UserError, with the nearest name, for a skill that does not exist."""
    if name not in SKILLS:
        raise UserError(f"procedural: no skill {name!r}{nearest(name, SKILLS)}; there are {listed(SKILLS)}")


def rows(
    name: str, split: str, count: int, length: int = 5, demonstration: str = "restate", seed: int = 0
) -> list[dict]:
    """`count` rows of one skill and split: the same for the same seed, no string twice. Raises UserError."""
    check_count(name, split, count, length)
    number = list(SKILLS).index(name)
    rng = np.random.default_rng([seed, number, ("train", "validation", "eval").index(split)])
    return [row(name, text, demonstration) for text in strings(alphabet(name), length, split, count, rng)]


def row(name: str, text: str, demonstration: str = "restate") -> dict:
    """The row of one string, without an id."""
    answer = SKILLS[name](text)
    return {
        "prompt": [{"role": "user", "content": name + text}],
        "answer": answer,
        "demonstration": DEMONSTRATIONS[demonstration](text, answer),
        "answer_markers": ANSWER_MARKERS,
    }
