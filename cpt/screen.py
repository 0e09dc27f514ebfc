"""What the user sees: lines, small tables, and progress with rates and remaining time.

What progress looks like is in `cpt.progress`. The libraries' own noise goes to the run's log (`logs_to`), never here.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cpt.disk import writing
from cpt.progress import Bar, LineBar, LiveBar

QUIET, NORMAL, VERBOSE = 0, 1, 2
WIDEST = 10_000  # columns of the matrix in a file


class Screen:
    """The one place that prints. `level` is QUIET (results and errors), NORMAL, or VERBOSE (also what libraries warn)."""

    def __init__(self, level: int = NORMAL, stream=None):
        from rich.console import Console

        self.level = level
        silent = os.environ.get("RANK", "0") != "0"  # under a launcher rank 0 alone speaks
        self.console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True, quiet=silent)
        self.bars: list[Bar] = []  # the last one is shown

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
    def progress(self, label: str, total: int | None = None, unit: str = "step") -> Iterator[Bar]:
        """Progress over `total` units, or of something without parts; `bar.update(done, reward=0.5)` moves it and shows the
        fields. One inside another takes its place while it lasts.
        """
        if self.level < NORMAL or self.console.quiet:
            yield Bar()
            return
        bar = (LiveBar if self.console.is_terminal else LineBar)(self.console, label, total, unit)
        outer = self.bars[-1] if self.bars else Bar()
        outer.hide()
        self.bars.append(bar)
        bar.show()
        try:
            yield bar
        finally:
            bar.hide()
            self.bars.pop()
            outer.show()


def matrix_table(headings: Sequence[str], points: Sequence[str], accuracy, extra: dict[str, Sequence[float | None]]):
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
        table.add_row(point, *cells, *("" if v[index] is None else f"{v[index]:.3f}" for v in extra.values()))
    return table


class LogFile(logging.FileHandler):
    """A log file that may become impossible to write; it says so once, in a line, and the run continues."""

    has_warned = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.has_warned:
            self.has_warned = True
            why = getattr(sys.exc_info()[1], "strerror", None) or "check the disk"
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
