"""The letter skills: small functions on strings of letters, and which strings belong to which split.

What the built-in toy model is trained on and what the procedural tasks evaluate come from here. The split of a string is a
hash of the string alone, so splits are disjoint for every seed and size, and the toy model never saw an evaluation string.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable

import numpy as np

LETTERS = "abcdefghij"
FEW_LETTERS = "abcdef"  # dedup needs repetitions


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
    # the toy model never saw these two; new skills go to the end, for a skill's place picks its rows
    "evens": lambda text: text[::2],
    "add": lambda text: "".join(shift(letter, place) for place, letter in enumerate(text)),
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


def strings(letters: str, length: int, split: str, count: int, rng: np.random.Generator) -> list[str]:
    """`count` different strings of the split, drawn evenly; there must be that many (`check_count`)."""
    if len(letters) ** length <= LISTED:
        every = every_string(letters, length)[split]
        return [every[i] for i in rng.permutation(len(every))[:count]]
    drawn_strings: dict[str, None] = {}
    while len(drawn_strings) < count:
        codes = rng.integers(len(letters), size=(2 * count + 64, length))
        drawn = ("".join(letters[code] for code in row) for row in codes)
        drawn_strings |= dict.fromkeys(text for text in drawn if split_of(text) == split)
    return list(drawn_strings)[:count]
