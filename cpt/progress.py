"""Progress: how far something is, how fast it goes, and how long it will take.

On a terminal a live bar (rich), in a log file a plain line now and then, without control codes. Both also show that time
passes where nothing moves: a model is loaded, or the first step takes minutes.
"""

import threading
import time
from collections import deque

FIRST_LINE = 10.0  # seconds of silence in a log file before the first line; what is shorter shows none
BETWEEN_LINES = 30.0  # seconds
RECENT = 120.0  # seconds, or
FEWEST = 5  # units, where these took longer: what the pace is measured over


class Pace:
    """How fast it goes: by the last two minutes or the last few units, for by all of them a slow start is never forgotten."""

    def __init__(self):
        self.seen: deque[tuple[float, int]] = deque()  # (time, units done)

    def note(self, now: float, done: int) -> None:
        if not self.seen or done != self.seen[-1][1]:
            self.seen.append((now, done))
        while len(self.seen) > FEWEST + 1 and self.seen[1][0] < now - RECENT:
            self.seen.popleft()

    def rate(self, now: float) -> float | None:
        """Units a second; None where fewer than two are known. It falls while a unit takes longer than those before it."""
        if len(self.seen) < 2:
            return None
        (began, first), (ended, last) = self.seen[0], self.seen[-1]
        count = last - first
        seconds = max(ended - began, (now - began) * count / (count + 1))
        return count / seconds if seconds > 0 and count > 0 else None


def pace_text(rate: float | None, unit: str) -> str:
    """`3.2 step/s`, or `12.5 s/step` where one takes longer than a second; nothing where none was taken."""
    if not rate:
        return ""
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}"


def clock(seconds: float) -> str:
    """`75` -> `1:15`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def fields_text(fields: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in fields.items())


class Bar:
    """Progress that shows nothing (--quiet, and ranks other than 0)."""

    def update(self, done: int, **fields: float) -> None:
        """Move to `done` units and show `fields` beside the bar."""

    def show(self) -> None:
        """Begin to show it, or show it again."""

    def hide(self) -> None:
        """Take it off the screen: it has ended, or another one takes its place for a while."""


class Shown(Bar):
    """`total` units of `unit`, or something without parts (None)."""

    def __init__(self, label: str, total: int | None, unit: str):
        self.label, self.total, self.unit = label, total, unit
        self.start = time.monotonic()
        self.done, self.pace = 0, Pace()
        self.fields: dict[str, float] = {}

    def update(self, done: int, **fields: float) -> None:
        self.done, self.fields = done, self.fields | fields
        self.pace.note(time.monotonic(), done)

    def count(self) -> str:
        return "" if self.total is None else f"{self.done}/{self.total}"

    def timing(self) -> str:
        """Pace and remaining time; the time so far where these are not known yet."""
        now = time.monotonic()
        rate = self.pace.rate(now)
        if rate is None or self.total is None:
            return f"{clock(now - self.start)} so far"
        return f"{pace_text(rate, self.unit)}  {clock(max(0, self.total - self.done) / rate)} left"


class LiveBar(Shown):
    """For a terminal."""

    def __init__(self, console, label: str, total: int | None, unit: str):
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(label, total, unit)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[bar]}"),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self.task = self.progress.add_task(label, total=total, bar=Beside(self))

    def update(self, done: int, **fields: float) -> None:
        super().update(done, **fields)
        self.progress.update(self.task, completed=done)

    def show(self) -> None:
        self.progress.start()

    def hide(self) -> None:
        self.progress.stop()


class Beside:
    """The text beside a live bar, made again each time that rich draws it."""

    def __init__(self, bar: Shown):
        self.bar = bar

    def __format__(self, _) -> str:
        parts = (self.bar.count(), self.bar.timing(), fields_text(self.bar.fields))
        return "  ".join(part for part in parts if part)


class LineBar(Shown):
    """For a log file: a plain line after FIRST_LINE seconds, then one in BETWEEN_LINES, also where nothing moves."""

    def __init__(self, console, label: str, total: int | None, unit: str):
        super().__init__(label, total, unit)
        self.console = console
        self.due = self.start + FIRST_LINE
        self.lock, self.hidden = threading.Lock(), threading.Event()

    def update(self, done: int, **fields: float) -> None:
        super().update(done, **fields)
        self.print_if_due()

    def show(self) -> None:
        self.hidden = threading.Event()
        threading.Thread(target=self._watch, args=(self.hidden,), name="progress", daemon=True).start()

    def hide(self) -> None:
        self.hidden.set()

    def _watch(self, hidden: threading.Event) -> None:
        while not hidden.wait(1.0):
            self.print_if_due()

    def print_if_due(self) -> None:
        with self.lock:
            now = time.monotonic()
            if now < self.due or self.hidden.is_set():
                return
            self.due = now + BETWEEN_LINES
            head = f"{self.label} {self.count()}".rstrip()
            text = f"{head}  {self.timing()}  {fields_text(self.fields)}"
            self.console.print(text.rstrip(), markup=False)
