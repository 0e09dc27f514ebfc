"""Which prompts an engine continues together. No heavy import.

The arithmetic of a row depends on the size and the width of its batch: in bfloat16 that changes one greedy answer in ten. So
batches are made of the lengths of the prompts alone, by a rule that knows no machine and no free memory: the same prompts are
continued in the same batches everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The largest batch: `prompts` at most and, padding and whole answers included, `tokens` at most (None: any number).

    A prompt that has more tokens by itself is a batch by itself.
    """

    prompts: int
    tokens: int | None = None


def batches(lengths: Sequence[int], answer: int, limits: Limits) -> list[list[int]]:
    """The places of the prompts of each batch, for prompts of `lengths` tokens and answers of up to `answer`.

    The longest come first: an out-of-memory error comes at once, and the prompts of one batch are of similar length.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    places: list[list[int]] = []
    while order:
        width = lengths[order[0]] + answer
        fitting = limits.prompts if limits.tokens is None else limits.tokens // width
        number = max(1, min(limits.prompts, fitting))
        places.append(order[:number])
        order = order[number:]
    return places
