"""Charts of a comparison, as inline SVG in the manner of `cpt.report.charts`."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from cpt.report.charts import Frame, nice_ticks
from cpt.report.formatting import compact

RADIUS = 9.5
MARGIN = 0.06  # of the span, on each side


class Dot(NamedTuple):
    """A group in a plane: its number, its name, its place, and an interval (or None) along each axis."""

    number: int
    label: str
    x: float
    y: float
    across: tuple[float, float] | None
    along: tuple[float, float] | None
    is_baseline: bool


def plane(title: str, x_name: str, y_name: str, dots: Sequence[Dot]) -> Markup:
    """Groups as numbered dots, with their intervals as crosses."""
    x_ticks = spanning([end for dot in dots for end in (dot.x, *(dot.across or ()))])
    y_ticks = spanning([end for dot in dots for end in (dot.y, *(dot.along or ()))])
    frame = Frame(
        540, 330, x=(x_ticks[0], x_ticks[-1]), y=(y_ticks[0], y_ticks[-1]), left=58, right=18, top=14, bottom=44
    )
    crosses = "".join(cross(frame, dot) for dot in dots)
    marks = "".join(mark(frame, dot) for dot in dots)
    base, middle = frame.height - frame.bottom, (frame.height - frame.bottom + frame.top) / 2
    names = f'<text class="axis" x="{(frame.left + frame.width - frame.right) / 2:.1f}" y="{frame.height - 6}" '
    names += f'text-anchor="middle">{escape(x_name)}</text>'
    names += f'<text class="axis" transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">'
    names += f"{escape(y_name)}</text>"
    ticks = "".join(
        f'<line class="grid" x1="{frame.px(tick):.1f}" x2="{frame.px(tick):.1f}" y1="{frame.top}" y2="{base}"/>'
        f'<text class="tick" text-anchor="middle" x="{frame.px(tick):.1f}" y="{base + 16}">{compact(tick)}</text>'
        for tick in x_ticks
    )
    described = "; ".join(f"{dot.label} {compact(dot.x)}, {compact(dot.y)}" for dot in dots)
    return frame.svg(f"{title}: {described}", frame.grid(y_ticks), ticks, crosses, marks, names)


def spanning(values: Sequence[float]) -> list[float]:
    """Round numbers that span the values with a margin."""
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) * MARGIN
    return nice_ticks(low - room if low < 0 or low - room > 0 else low, high + room)


def cross(frame: Frame, dot: Dot) -> str:
    x, y = frame.px(dot.x), frame.py(dot.y)
    kind = "cross base" if dot.is_baseline else "cross"
    lines = ""
    if dot.across:
        lines += f'<line class="{kind}" x1="{frame.px(dot.across[0]):.1f}" x2="{frame.px(dot.across[1]):.1f}" '
        lines += f'y1="{y:.1f}" y2="{y:.1f}"/>'
    if dot.along:
        lines += f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.py(dot.along[0]):.1f}" '
        lines += f'y2="{frame.py(dot.along[1]):.1f}"/>'
    return lines


def mark(frame: Frame, dot: Dot) -> str:
    x, y = frame.px(dot.x), frame.py(dot.y)
    kind = "group base" if dot.is_baseline else "group"
    return (
        f'<g class="{kind}"><title>{escape(dot.label)}: {compact(dot.x)}, {compact(dot.y)}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{dot.number}</text></g>'
    )


def difference_bar(value: float, ends: Sequence[float], reach: float, verdict: str) -> Markup:
    """A difference with its interval on a scale from -`reach` to `reach`, zero in the middle."""

    def place(number: float) -> float:
        return 50 + 50 * max(-1.0, min(1.0, number / reach))

    low, high = place(ends[0]), place(ends[1])
    marks = '<rect class="track" x="0" y="5.5" width="100" height="1"/>'
    marks += '<rect class="zero" x="49.8" y="0" width="0.4" height="12"/>'
    marks += f'<rect class="range" x="{low:.2f}" y="4" width="{max(0.4, high - low):.2f}" height="4"/>'
    marks += f'<rect class="value" x="{place(value) - 0.7:.2f}" y="1.5" width="1.4" height="9"/>'
    return Markup(
        f'<svg class="gauge {verdict.replace(" ", "-")}" viewBox="0 0 100 12" preserveAspectRatio="none" '
        f'aria-hidden="true">{marks}</svg>'
    )
