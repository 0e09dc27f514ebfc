"""Numbers as words: how the report writes scores, intervals, times, counts and sizes. None is a dash."""

from collections.abc import Sequence

from cpt import sizes

MINUS = "−"
DASH = "–"


def score(value: float | None, digits: int = 3) -> str:
    """0.970; a value that rounds to zero has no sign."""
    if value is None:
        return DASH
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """+0.050 or −0.050."""
    text = score(value, digits)
    return text if value is None or text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    return "" if ends is None else f"{score(ends[0], digits)} to {score(ends[1], digits)}"


def compact(value: float) -> str:
    """Three significant digits, for axes and last values: 0.0123, 6.21, 412k."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("-", MINUS)
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k".replace("-", MINUS)
    return f"{value:.3g}".replace("-", MINUS)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def count(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    return DASH if value is None else sizes.size(value)


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
