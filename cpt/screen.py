"""What the user sees: lines, small tables, and progress with rates and remaining time.

On a terminal progress is a live bar (rich); in a log file it is a plain line every half minute, without control codes.
The libraries' own noise goes to the run's log (`logs_to`), never here.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cpt.disk import writing

QUIET, NORMAL, VERBOSE = 0, 1, 2
SECONDS_BETWEEN_LINES = 30.0
WIDEST = 10_000  # columns of the matrix in a file


class Screen:
    """The one place that prints. `level` is QUIET (results and errors), NORMAL, or VERBOSE (also what libraries warn)."""

    def __init__(self, level: int = NORMAL, stream=None):
        from rich.console import Console

        self.level = level
        silent = os.environ.get("RANK", "0") != "0"  # under a launcher rank 0 alone speaks
        self.console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True, quiet=silent)

    def line(self, text: str = "", style: str | None = None, level: int = NORMAL) -> None:
        if self.level >= level:
            self.console.print(text, style=style, markup=False)

    def result(self, text: str, style: str | None = None) -> None:
        """A line that --quiet keeps."""
        self.line(text, style, level=QUIET)

    def warn(self, text: str) -> None:
        self.line(f"warning: {text}", style="yellow", level=QUIET)

    def matrix(self, tasks: Sequence[str], points: Sequence[str], accuracy, extra: dict[str, Sequence[float]]) -> None:
        """The accuracy matrix so far: a row a point, a column a task, then the held-out suites. All columns are shown.

        Where a terminal is too narrow for the tasks' names, their numbers stand above the columns, as in the rows' names.
        """
        if self.level < NORMAL:
            return
        from rich.measure import Measurement

        wide = self.console.options.update(max_width=WIDEST)
        table = matrix_table([*tasks, *extra], points, accuracy, extra)
        if self.console.is_terminal and Measurement.get(self.console, wide, table).maximum > self.console.width:
            numbers = [f"{number:02d}" for number in range(1, len(tasks) + 1)]
            table = matrix_table([*numbers, *extra], points, accuracy, extra)
        table.width = Measurement.get(self.console, wide, table).maximum  # else rich cuts columns off to 80 in a file
        self.console.print(table)

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "step") -> Iterator["Bar"]:
        """A bar for `total` units; `bar.update(done, reward=0.5)` moves it and shows the fields."""
        if self.level < NORMAL:
            yield Bar()
        elif self.console.is_terminal:
            yield from self._live(label, total, unit)
        else:
            bar = LineBar(self.console, label, total, unit)
            yield bar
            bar.close()

    def _live(self, label: str, total: int, unit: str) -> Iterator["Bar"]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}", style="dim"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield LiveBar(progress, progress.add_task(label, total=total, rate="", shown=""), unit)


def matrix_table(headings: Sequence[str], points: Sequence[str], accuracy, extra: dict[str, Sequence[float]]):
    """See Screen.matrix."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("after", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for index, (point, row) in enumerate(zip(points, accuracy, strict=True)):
        cells = []
        for column, value in enumerate(row):
            style = "bold" if column == index - 1 else "dim" if column > index - 1 else ""
            cells.append(f"[{style}]{value:.3f}[/]" if style else f"{value:.3f}")
        table.add_row(point, *cells, *(f"{values[index]:.3f}" for values in extra.values()))
    return table


class Bar:
    """Progress that shows nothing (--quiet, and ranks other than 0)."""

    def update(self, done: int, **fields: float) -> None:
        """Move to `done` units and show `fields` beside the bar."""


class LiveBar(Bar):
    def __init__(self, progress, task, unit: str):
        self.progress, self.task, self.unit = progress, task, unit
        self.first: tuple[float, int] | None = None

    def update(self, done: int, **fields: float) -> None:
        now = time.monotonic()
        self.first = self.first or (now, done)
        seconds, count = now - self.first[0], done - self.first[1]
        rate = f"{count / seconds:.1f} {self.unit}/s" if seconds > 0 and count else ""
        shown = {"shown": show_fields(fields)} if fields else {}
        self.progress.update(self.task, completed=done, rate=rate, **shown)


class LineBar(Bar):
    """For log files: a plain line at most every SECONDS_BETWEEN_LINES."""

    def __init__(self, console, label: str, total: int, unit: str):
        self.console, self.label, self.total, self.unit = console, label, total, unit
        self.start = self.last = time.monotonic()
        self.first: int | None = None
        self.fields: dict[str, float] = {}

    def update(self, done: int, **fields: float) -> None:
        self.first = done if self.first is None else self.first
        self.fields |= fields
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES or done == self.first:
            return
        self.last = now
        rate = (done - self.first) / (now - self.start)
        left = (self.total - done) / rate if rate else float("inf")
        text = f"{self.label} {done}/{self.total}  {rate:.1f} {self.unit}/s  {clock(left)} left"
        self.console.print(f"{text}  {show_fields(self.fields)}".rstrip(), markup=False)

    def close(self) -> None:
        """Nothing to take down: the lines stay."""


def show_fields(fields: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in fields.items())


def clock(seconds: float) -> str:
    """`75` -> `1:15`."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class LogFile(logging.FileHandler):
    """A log file that may become impossible to write: said once, in a line; the run does not end by that."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.told:
            self.told = True
            why = getattr(sys.exc_info()[1], "strerror", None) or "see the disk"
            print(
                f"cpt: warning: {self.baseFilename}: cannot be written ({why}): what follows is lost", file=sys.stderr
            )

    def close(self) -> None:
        with suppress(OSError):  # what is still in the buffer
            super().close()


@contextmanager
def logs_to(path: Path, level: int = NORMAL) -> Iterator[None]:
    """Send what libraries log and warn to the file `path` for the length of the block (and to stderr if VERBOSE)."""
    with writing(path):
        handlers: list[logging.Handler] = [LogFile(path, encoding="utf-8")]
    if level >= VERBOSE:
        handlers.append(logging.StreamHandler(sys.stderr))
    form = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    root = logging.getLogger()
    old_level, old_filters = root.level, warnings.filters[:]
    for handler in handlers:
        handler.setFormatter(form)
        root.addHandler(handler)
    root.setLevel(logging.INFO if level >= VERBOSE else logging.WARNING)
    logging.getLogger("cpt").setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        warnings.filters[:] = old_filters
        root.setLevel(old_level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


@contextmanager
def no_log() -> Iterator[None]:
    """What libraries log and warn in this block goes nowhere: `cpt check` has no log, and says itself what is wrong."""
    root, nowhere, filters = logging.getLogger(), logging.NullHandler(), warnings.filters[:]
    root.addHandler(nowhere)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        warnings.filters[:] = filters
        root.removeHandler(nowhere)


def hush_libraries(level: int = NORMAL) -> None:
    """Take the libraries' own handlers and bars off the screen; their records go to the root logger (see `logs_to`)."""
    import datasets
    import transformers

    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()
    transformers.utils.logging.disable_progress_bar()
    if level >= VERBOSE:
        transformers.utils.logging.set_verbosity_info()
    datasets.utils.logging.enable_propagation()
    logging.getLogger("datasets").handlers.clear()  # it has no function that does this
    datasets.disable_progress_bars()
