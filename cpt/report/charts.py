"""Charts as inline SVG. Colours come from the page's style sheet, so they follow light and dark."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from markupsafe import Markup, escape

from cpt.report.formatting import compact

Numbers = Sequence[float]
MOST_POINTS = 240  # of a training curve; longer ones are averaged in bins
SMOOTHED_FROM = 24  # points from which a training curve also gets a moving average
SIZES = {2: (540, 210, 9.6), 3: (350, 196, 7.2), 4: (262, 168, 7.2)}
"""Of a stream chart by the columns that a row of them has: the size of its view box, which is about that on a wide page,
so that text keeps its size; and how wide a letter of a tick may be, on a phone too (style.css)."""


@dataclass(frozen=True)
class Frame:
    """A plot area in a view box, and the maps from data to it."""

    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    left: float = 34
    right: float = 12
    top: float = 8
    bottom: float = 22

    def px(self, value: float) -> float:
        low, high = self.x
        return self.left + (self.width - self.left - self.right) * ((value - low) / (high - low) if high > low else 0.5)

    def py(self, value: float) -> float:
        low, high = self.y
        return self.height - self.bottom - (self.height - self.top - self.bottom) * (value - low) / (high - low)

    def line(self, xs: Numbers, ys: Numbers, kind: str) -> str:
        return f'<polyline class="{kind}" points="{self.points(xs, ys)}"/>'

    def points(self, xs: Numbers, ys: Numbers) -> str:
        return " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in zip(xs, ys, strict=True))

    def band(self, xs: Numbers, ends: Sequence[Numbers]) -> str:
        lower = self.points(xs, [low for low, _ in ends])
        back = self.points(list(xs)[::-1], [high for _, high in ends][::-1])
        return f'<polygon class="band" points="{lower} {back}"/>'

    def grid(self, ticks: Numbers) -> str:
        left, right = self.left, self.width - self.right
        return "".join(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{self.py(tick):.1f}" y2="{self.py(tick):.1f}"/>'
            f'<text class="tick" text-anchor="end" x="{left - 6}" y="{self.py(tick) + 4:.1f}">{compact(tick)}</text>'
            for tick in ticks
        )

    def level(self, name: str, value: float) -> str:
        """A dashed line over the whole width; the page's legend shows the dashes of each name."""
        left, right, y = self.left, self.width - self.right, self.py(value)
        return (
            f'<line class="level {escape(name)}" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}">'
            f"<title>{escape(name)}: {value:.3f}</title></line>"
        )

    def tick(self, x: float, text: str, anchor: str = "middle") -> str:
        y = self.height - 6
        return f'<text class="tick" x="{self.px(x):.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'

    def svg(self, label: str, *marks: str) -> Markup:
        head = f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(label)}">'
        return Markup(head + "".join(marks) + "</svg>")


def stream_chart(
    label: str,
    points: Sequence[str],
    values: Numbers,
    ends: Sequence[Numbers],
    *,
    rows: int,
    ghosts=(),
    trained: int | None = None,
    levels: Mapping[str, float] = MappingProxyType({}),
    columns: int = 3,
) -> Markup:
    """One task's (or suite's) score over the stream, with its intervals; `ghosts` are other lines, for comparison.

    `points` names the rows evaluated so far, of `rows` in all; `trained` is the row of the task's own training; `levels` are
    dashed lines with their names, for baselines; `columns`
    is how many charts stand side by side.
    """
    width, height, letter = SIZES[columns]
    frame = Frame(width, height, x=(0, max(1, rows - 1)), y=(0, 1), left=36, right=18, bottom=26)
    xs = range(len(values))
    room = (frame.width - frame.left - frame.right) / max(1, rows - 1)
    named = [short(point, room, letter) for point in points]
    every = max(1, math.ceil(3.4 * letter / room))
    stripe = ""
    if trained is not None:
        wide = min(26.0, room * 0.7)
        stripe = f'<rect class="stripe" x="{frame.px(trained) - wide / 2:.1f}" y="{frame.top}" width="{wide:.1f}" '
        stripe += f'height="{frame.height - frame.top - frame.bottom}"><title>trained here</title></rect>'
    dots = "".join(
        f'<circle class="dot" cx="{frame.px(x):.1f}" cy="{frame.py(value):.1f}" r="3.2">'
        f"<title>{escape(point)}: {value:.3f} [{low:.3f}, {high:.3f}]</title></circle>"
        for x, point, value, (low, high) in zip(xs, points, values, ends, strict=True)
    )
    return frame.svg(
        f"{label}: {', '.join(f'{value:.3f}' for value in values)}",
        stripe,
        frame.grid((0, 0.5, 1)),
        *(frame.line(xs, ghost, "ghost") for ghost in ghosts),
        *(frame.level(name, value) for name, value in levels.items()),
        frame.band(xs, ends),
        frame.line(xs, values, "line"),
        dots,
        *(frame.tick(x, named[x]) for x in xs if x % every == 0),
    )


def trade_off_chart(
    label: str,
    xs: Numbers,
    *,
    new: Numbers,
    old: Numbers | None,
    each_old: Sequence[Numbers] = (),
    taken: float | None,
    columns: int,
) -> Markup:
    """Accuracy of the new task and mean of the old ones (None: there are none yet) over a merge's weight or scale.

    `each_old` are faint lines; `taken` is the value that was chosen, where it lies on this axis.
    """
    width, height, letter = SIZES[columns]
    frame = Frame(width, height, x=(min(xs), max(xs)), y=(0, 1), left=36, right=18, bottom=26)
    stripe = ""
    if taken is not None:
        stripe = f'<rect class="stripe" x="{frame.px(taken) - 9:.1f}" y="{frame.top}" width="18" '
        stripe += f'height="{frame.height - frame.top - frame.bottom}"><title>taken</title></rect>'
    lines = {"other": new} | ({} if old is None else {"line": old})
    dots = "".join(
        f'<circle class="dot {kind}" cx="{frame.px(x):.1f}" cy="{frame.py(y):.1f}" r="3.2">'
        f"<title>{x:g}: {y:.3f}</title></circle>"
        for kind, ys in lines.items()
        for x, y in zip(xs, ys, strict=True)
    )
    descriptions = [f"new task {', '.join(f'{y:.3f}' for y in new)}"]
    descriptions += [] if old is None else [f"old tasks {', '.join(f'{y:.3f}' for y in old)}"]
    return frame.svg(
        f"{label} {', '.join(f'{x:g}' for x in xs)}: {'; '.join(descriptions)}",
        stripe,
        frame.grid((0, 0.5, 1)),
        *(frame.line(xs, ghost, "ghost") for ghost in each_old),
        *(frame.line(xs, ys, kind) for kind, ys in lines.items()),
        dots,
        *ticks_apart(frame, xs, letter),
    )


def ticks_apart(frame: Frame, xs: Numbers, letter: float) -> list[str]:
    """A tick at each value that leaves room for the one before it; the last value has one always."""
    chosen: list[float] = []
    for x in sorted(xs, reverse=True):
        if (
            not chosen
            or frame.px(chosen[-1]) - frame.px(x) >= letter * (len(f"{x:g}") + len(f"{chosen[-1]:g}")) / 2 + 4
        ):
            chosen.append(x)
    return [frame.tick(x, f"{x:g}") for x in chosen]


def columns_of(charts: int) -> int:
    """How many of `charts` stand in a row: two to four, so that rows are full and text is large enough to read."""
    return charts if 2 <= charts <= 4 else 2 if charts == 1 else 3 if charts <= 6 else 4


def short(point: str, room: float, letter: float = 5.6) -> str:
    """A tick's text for `01-reverse`: the task's name where it fits into `room` units, else its number."""
    number, name = point.split("-", 1)
    fits = int(room / letter)
    if len(name) <= fits:
        return name
    return (
        name[: fits - 1] + "…" if fits >= 6 else "base" if name == "base" and fits >= 4 else number.lstrip("0") or "0"
    )


def curve(label: str, xs: Numbers, ys: Numbers, *, most_x: float, span: tuple[float, float]) -> Markup:
    """A training curve with y range `span`; long ones are averaged in bins, and get a moving average on top."""
    ticks = nice_ticks(*span)
    frame = Frame(
        262, 136, x=(0, most_x), y=(min(span[0], ticks[0]), max(span[1], ticks[-1])), left=46, right=10, bottom=24
    )
    xs, ys = binned(xs, ys)
    smooth = len(ys) >= SMOOTHED_FROM
    lines = [frame.line(xs, ys, "raw" if smooth else "line")]
    if smooth:
        lines.append(frame.line(xs, moving_average(ys, max(3, len(ys) // 12)), "line"))
    return frame.svg(label, frame.grid(ticks), *lines, frame.tick(0, "0"), frame.tick(most_x, f"{most_x:g}", "end"))


def nice_ticks(low: float, high: float) -> list[float]:
    """Two to four round numbers that span [low, high]."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / 2
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def binned(xs: Numbers, ys: Numbers) -> tuple[list[float], list[float]]:
    width = math.ceil(len(xs) / MOST_POINTS) or 1
    bins = [slice(start, start + width) for start in range(0, len(xs), width)]
    return [mean(xs[each]) for each in bins], [mean(ys[each]) for each in bins]


def moving_average(ys: Numbers, width: int) -> list[float]:
    """Centred; shorter at the ends."""
    half = width // 2
    return [mean(ys[max(0, i - half) : i + half + 1]) for i in range(len(ys))]


def mean(values: Numbers) -> float:
    return sum(values) / len(values)


def gauge(value: float, ends: Numbers, limit: float | None, low: float) -> Markup:
    """A value on its scale from `low` to 1, with its interval and the gate's limit."""

    def place(number: float) -> float:
        return 100 * (min(1.0, max(low, number)) - low) / (1 - low)

    marks = '<rect class="track" x="0" y="5" width="100" height="2"/>'
    if low < 0:
        marks += f'<rect class="zero" x="{place(0) - 0.25:.2f}" y="2" width="0.5" height="8"/>'
    marks += (
        f'<rect class="range" x="{place(ends[0]):.2f}" y="4" width="{place(ends[1]) - place(ends[0]):.2f}" height="4"/>'
    )
    marks += f'<rect class="value" x="{place(value) - 0.8:.2f}" y="1.5" width="1.6" height="9"/>'
    if limit is not None:
        marks += f'<rect class="limit" x="{place(limit) - 0.4:.2f}" y="0" width="0.8" height="12"/>'
    return Markup(
        f'<svg class="gauge" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">{marks}</svg>'
    )
