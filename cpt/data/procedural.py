"""The letter tasks: small skills over strings of letters, with exact answers, made on the spot in any number.

Which split a string belongs to depends on a hash of the string alone, so splits are disjoint for every seed and size, and
what the embedded model was made from (training strings) never holds an evaluation string.
"""

import difflib
import functools
import hashlib
import itertools
from collections.abc import Callable

import numpy as np

from cpt.errors import UserError

LETTERS = "abcdefghij"
FEW_LETTERS = "abcdef"  # dedup needs repetitions
ANSWER_MARKERS = ["->", ":"]  # a demonstration may show its work; the answer follows the last of these


def shift(text: str, by: int) -> str:
    return "".join(LETTERS[(LETTERS.index(letter) + by) % len(LETTERS)] for letter in text)


SKILLS: dict[str, Callable[[str], str]] = {
    "copy": lambda text: text,
    "last": lambda text: text[-1],
    "max": max,
    "succ": lambda text: shift(text, 1),
    "swap": lambda text: text[-1] + text[1:-1] + text[0] if len(text) > 1 else text,
    "reverse": lambda text: text[::-1],
    "sort": lambda text: "".join(sorted(text)),
    "rot": lambda text: text[2 % len(text) :] + text[: 2 % len(text)],
    "caesar": lambda text: shift(text, 7),
    "dedup": lambda text: "".join(dict.fromkeys(text)),
    # the embedded model never saw these two; new skills go to the end, for a skill's place picks its rows
    "evens": lambda text: text[::2],
    "add": lambda text: "".join(shift(letter, place) for place, letter in enumerate(text)),
}

DEMONSTRATIONS: dict[str, Callable[[str, str], str]] = {
    "terse": lambda text, answer: answer,
    "restate": lambda text, answer: f"{text}->{answer}",
    "sentence": lambda text, answer: f"so ans is: {answer}.",
    "spaced": lambda text, answer: " ".join(answer),
}


def alphabet(skill: str) -> str:
    return FEW_LETTERS if skill == "dedup" else LETTERS


def split_of(text: str) -> str:
    """`eval` for a tenth of all strings, `validation` for a tenth, `train` for the rest."""
    bucket = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") % 10
    return {0: "eval", 1: "validation"}.get(bucket, "train")


@functools.lru_cache(maxsize=16)
def every_string(letters: str, length: int) -> dict[str, list[str]]:
    """All strings of a length, by split."""
    every: dict[str, list[str]] = {"train": [], "validation": [], "eval": []}
    for text in map("".join, itertools.product(letters, repeat=length)):
        every[split_of(text)].append(text)
    return every


LISTED = 200_000  # strings of a length, up to which all of them are listed


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
    there = len(every_string(alphabet(name), length)[split])
    if there < count:
        raise UserError(
            f"procedural: {count} {split} rows were asked for, but only {there} strings of length {length} belong "
            f"to that split: ask for fewer, or raise data.length"
        )


def strings(letters: str, length: int, split: str, count: int, rng: np.random.Generator) -> list[str]:
    """`count` different strings of the split, drawn evenly; there must be that many (`check_count`)."""
    if len(letters) ** length <= LISTED:
        every = every_string(letters, length)[split]
        return [every[i] for i in rng.permutation(len(every))[:count]]
    found: dict[str, None] = {}
    while len(found) < count:
        codes = rng.integers(len(letters), size=(2 * count + 64, length))
        drawn = ("".join(letters[code] for code in row) for row in codes)
        found |= dict.fromkeys(text for text in drawn if split_of(text) == split)
    return list(found)[:count]


def check_skill(name: str) -> None:
    """Raise UserError, with the nearest name, for a skill that does not exist."""
    if name not in SKILLS:
        near = difflib.get_close_matches(name, SKILLS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"procedural: no skill {name!r}; {hint}there are {', '.join(SKILLS)}")


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
