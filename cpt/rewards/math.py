"""1 where math-verify finds the completion's final answer equal to the row's (symbolically), 0 otherwise.

A number in scientific notation (`1e-05`, `1.5E7`) is read as that number too: math-verify alone takes the `e` for Euler's
number. Where both readings are possible (`2e-4`), either may match. A decimal number below 0.0001 is compared to three
significant digits: math-verify's six decimals would make 1.5e-7 equal to 2e-7.

math-verify's own time limits need the main thread's alarm signal; here they are off, and the call runs in a worker process
that is killed at the limit.
"""

import re
from decimal import Decimal
from math import floor, log10

SCIENTIFIC = re.compile(r"(?<![\w.])\d+(?:\.\d*)?[eE][-+]?\d{1,3}(?![\w.]*\w)")
PLAIN = re.compile(r"[-+]?\d{1,300}(\.\d{1,300})?|\\frac\{\d{1,300}\}\{\d{1,300}\}")
GROUPED = re.compile(r"[-+]?\d{1,3}(?:[ '_\u00a0\u2009\u202f]\d{3})+(?:[.,]\d+)?")
ROUNDING = 6  # decimals, math-verify's default
SIGNIFICANT = 3  # digits that are compared at least


def reader(spec: dict):
    """The answer as it is written, of which math-verify made its expression: 0.50 and 1/2 are two answers, if equal ones."""

    def written(completion: str, row: dict) -> str | None:
        found = parsed(in_decimals(completion))
        return " ".join(str(found[-1]).split()) if found else None

    return written


def build(spec: dict):
    from math_verify import verify

    def math(completion: str, row: dict) -> float:
        gold = gold_of(row["answer"])
        if not gold:
            raise ValueError(UNREADABLE.format(row["answer"]))
        found = [each for text in readings(completion) for each in parsed(text)]
        return float(verify(gold, found, float_rounding=rounding(gold), timeout_seconds=None))

    return math


UNREADABLE = "the row's answer {!r} is not mathematics that math-verify can read"


def problem(spec: dict):
    """See `verifiers.Kind`."""

    def unreadable(answer: str) -> str | None:
        if GROUPED.fullmatch(answer.strip()):
            return "math-verify reads only a part of it: write the number without signs or spaces between its thousands"
        if is_plain(answer) or any(not isinstance(each, str) for each in gold_of(answer)):
            return None
        return "math-verify cannot read it: write a number or LaTeX (a dollar sign before an amount must go)"

    return unreadable


def rounding(gold: list) -> int:
    """Decimals to which numbers are rounded before they are compared with this answer."""
    from sympy import Float

    sizes = [abs(each) for each in gold if isinstance(each, Float) and each]
    return max([ROUNDING, *(SIGNIFICANT - 1 - floor(log10(size)) for size in sizes)])


def is_plain(answer: str) -> bool:
    """Whether the answer is a number or fraction that math-verify surely reads, without asking it (a millisecond)."""
    return PLAIN.fullmatch(answer.strip()) is not None


def gold_of(answer: str) -> list:
    """What math-verify reads in a row's answer; empty where it can read nothing."""
    marked = answer if is_marked(answer) else f"${answer}$"  # bare LaTeX would be read in part
    return [each for text in readings(marked) for each in parsed(text)] or parsed(answer)


def is_marked(text: str) -> bool:
    """Whether the text says where its mathematics is; of a bare one math-verify would read a part."""
    return "$" in text or "\\boxed" in text


def readings(text: str) -> list[str]:
    """The text, with its numbers in scientific notation as decimals; where its mathematics is marked also as it stands
    (of a bare 1e-5 math-verify would read the 1)."""
    decimals = in_decimals(text)
    return [text, decimals] if is_marked(text) and decimals != text else [decimals]


def in_decimals(text: str) -> str:
    """1.5e-3 -> 0.0015."""
    return SCIENTIFIC.sub(lambda found: format(Decimal(found[0]), "f"), text)


def parsed(text: str) -> list:
    from math_verify import parse

    return parse(text, parsing_timeout=None)
