"""1 where math-verify finds the completion's final answer equal to the row's (symbolically), 0 otherwise.

A number in scientific notation (`1e-05`, `1.5E7`) is read as that number too: math-verify alone takes the `e` for Euler's
number. Where both readings are possible (`2e-4`), either may match. A decimal number below 0.0001 is compared to three
significant digits: math-verify's six decimals would make 1.5e-7 equal to 2e-7.

Of a completion what follows the model's thinking counts, and of that the last `<answer>...</answer>`, if there is one.
Digits of other scripts, the minus sign of Unicode, a leading plus, and LaTeX's spaces between thousands are read too.

math-verify's own time limits need the main thread's alarm signal; here they are off, and the call runs in a worker process
that is killed at the limit.
"""

import re
import unicodedata
from decimal import Decimal

from cpt.plain_text import after_thinking

MAY_HANG = True

SCIENTIFIC = re.compile(r"(?<![\w.])\d+(?:\.\d*)?[eE][-+]?\d{1,3}(?![\w.]*\w)")
PLAIN = re.compile(r"[-+]?\d{1,300}(\.\d{1,300})?|\\frac\{\d{1,300}\}\{\d{1,300}\}", re.ASCII)
GROUPED = re.compile(r"[-+]?\d{1,3}(?:[ '_\u00a0\u2009\u202f]\d{3})+(?:[.,]\d+)?")
NUMBER = r"[-+]?\d[\d.,]*(?:/\d+)?"
SEVERAL = re.compile(rf"{NUMBER}(?:\s+{NUMBER})+")  # 1 1/2, of which math-verify reads the 1
PREFIXED = re.compile(r"[-+]?0[xXbBoO][0-9a-fA-F]+")  # 0x1F, which math-verify reads as a product with 0
FOREIGN = re.compile(r"[^\x00-\x7f]")
THOUSANDS = re.compile(r"(?<=\d)(?:[\u00a0\u2009\u202f]|\\[,!;: ]|\{,\})(?=\d{3}(?!\d))")
LEADING = re.compile(r"(^|[=:({$]|\b(?:is|are|be)\b)\s*\+\s?(?=[\d.])")  # the plus of +5, not that of 3 +5
ROUNDING = 6  # decimals, math-verify's default
SIGNIFICANT = 3  # digits that are compared at least


def reader(spec: dict):
    """The answer as it is written, of which math-verify made its expression: 0.50 and 1/2 are two answers, if equal ones."""

    def written(completion: str, row: dict) -> str | None:
        expressions = parsed(in_decimals(final(completion)))
        return " ".join(str(expressions[-1]).split()) if expressions else None

    return written


def build(spec: dict):
    from math_verify import verify

    def math(completion: str, row: dict) -> float:
        gold = gold_of(row["answer"])
        if not gold:
            raise ValueError(UNREADABLE.format(row["answer"]))
        expressions = [each for text in readings(final(completion)) for each in parsed(text)]
        return float(verify(gold, expressions, float_rounding=rounding(gold), timeout_seconds=None))

    return math


UNREADABLE = "the row's answer {!r} is not mathematics that math-verify can read"


def problem(spec: dict):
    """See `verifiers.problem`."""

    def unreadable(answer: str) -> str | None:
        if GROUPED.fullmatch(answer.strip()):
            return "math-verify reads only a part of it: write the number without signs or spaces between its thousands"
        if SEVERAL.fullmatch(answer.strip()):
            return "math-verify reads only a part of it: write one number (3/2 for 1 1/2), or several as {1, 2}"
        if PREFIXED.fullmatch(answer.strip()):
            return "math-verify reads it as a product with 0: write the number in decimals"
        if is_plain(answer) or any(not isinstance(each, str) for each in gold_of(answer)):
            return None
        return "math-verify cannot read it: write a number or LaTeX (a dollar sign before an amount must go)"

    return unreadable


def rounding(gold: list) -> int:
    """Decimals to which numbers are rounded before they are compared with this answer."""
    from sympy import Float

    sizes = [Decimal(str(each)) for each in gold if isinstance(each, Float) and each.is_finite and each]
    return max([ROUNDING, *(SIGNIFICANT - 1 - size.adjusted() for size in sizes)])


def is_plain(answer: str) -> bool:
    """Whether the answer is a number or fraction that math-verify surely reads, without asking it (a millisecond)."""
    return PLAIN.fullmatch(answer.strip()) is not None


def gold_of(answer: str) -> list:
    """What math-verify reads in a row's answer; empty where it can read nothing."""
    answer = in_ascii(answer)
    marked = answer if is_marked(answer) else f"${answer}$"  # bare LaTeX would be read in part
    return [each for text in readings(marked) for each in parsed(text)] or parsed(answer)


def final(completion: str) -> str:
    """What of a completion is read: what the model gives as its answer, its numbers in math-verify's spelling."""
    text = after_thinking(completion)
    before, closed, _ = text.rpartition("</answer>")
    _, opened, marked = before.rpartition("<answer>")
    return LEADING.sub(r"\1 ", in_ascii(marked if opened and closed else text).strip())


def in_ascii(text: str) -> str:
    """Digits and minus signs of Unicode as ASCII's, and thousands that a space of LaTeX's or typography's parts in one."""
    text = FOREIGN.sub(lambda match: ascii_of(match[0]), text) if not text.isascii() else text
    return THOUSANDS.sub("", text)


def ascii_of(character: str) -> str:
    if character == "\u2212":
        return "-"
    digit = unicodedata.decimal(character, None)
    return character if digit is None else str(digit)


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
    return SCIENTIFIC.sub(lambda match: format(Decimal(match[0]), "f"), text)


def parsed(text: str) -> list:
    from math_verify import parse

    return parse(text, parsing_timeout=None)
