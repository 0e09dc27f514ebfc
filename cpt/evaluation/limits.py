"""A number and its interval held against a limit: which side it is on, whether the data can tell, and how it is written."""

import math
from typing import Literal

Outcome = Literal["passed", "failed", "inconclusive", "missing"]
ROUNDING = 1e-9  # a value that equals its limit but for rounding passes
WHOLE = ("interval", "non_inferiority")  # rules that compare the whole interval


def outcome(
    value: float, interval: tuple[float, float] | None, limit: float, direction: str, rule: str, noise: float = 0.0
) -> Outcome:
    """Whether a limit is kept.

    `point` compares the value; where it lies within `noise` of the limit, another evaluation of the same weights could be on
    the other side, and nothing is decided. The other rules compare the interval, widened by the noise: kept if all of it is
    on the right side, broken where all of it is on the wrong side, else the data cannot tell.
    """
    if rule == "point":
        near = noise > 0 and abs(value - limit) <= noise + ROUNDING
        return "inconclusive" if near else "passed" if keeps(value, limit, direction) else "failed"
    low, high = interval[0] - noise, interval[1] + noise
    far, close = (high, low) if direction == "max" else (low, high)
    return "passed" if keeps(far, limit, direction) else "inconclusive" if keeps(close, limit, direction) else "failed"


def bound(limit: float, rule: str, direction: str) -> float:
    """What a number is held against: the limit, or the margin of a change that is a loss where it is negative."""
    return -limit if rule == "non_inferiority" and direction == "min" else limit


def questions_needed(value: float, interval: tuple[float, float], limit: float, questions: int) -> int | None:
    """About how many questions a task or suite would tell, if the value stays; None where it is the limit itself.

    An interval's half width falls as 1 / sqrt(n): from |end - value| to |limit - value| it takes n ((end - value) / (limit -
    value))^2, of the end on the limit's side.
    """
    gap = limit - value
    if abs(gap) <= 1e-3:
        return None
    end = interval[1] if gap > 0 else interval[0]
    return max(questions + 1, math.ceil(questions * ((end - value) / gap) ** 2))


def compared_number(value: float, interval: tuple[float, float], direction: str, rule: str) -> float:
    """What is held against the limit: the value, or the end of its interval that lies nearer to failing."""
    return value if rule == "point" else interval[1] if direction == "max" else interval[0]


def keeps(number: float, limit: float, direction: str) -> bool:
    return bool(number <= limit + ROUNDING if direction == "max" else number >= limit - ROUNDING)


def apart(value: float, limit: float) -> tuple[str, str]:
    """Both numbers with three decimals, or with as many as tell them apart (at most six)."""
    digits = digits_apart(value, limit)
    return shown(value, digits), shown(limit, digits)


def digits_apart(value: float, limit: float) -> int:
    """Three, or as many as the limit has, or as tell both apart; at most six."""
    least = min(6, max(3, len(f"{limit:g}".partition(".")[2])))
    if abs(value - limit) <= ROUNDING:
        return least
    return next((digits for digits in range(least, 6) if shown(value, digits) != shown(limit, digits)), 6)


def shown(value: float, digits: int = 3) -> str:
    """Without the sign of a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"
