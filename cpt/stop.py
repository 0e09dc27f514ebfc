"""SIGTERM and Ctrl-C ask the run to stop; it saves its place and ends. A second Ctrl-C ends it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from cpt import ranks
from cpt.errors import Interrupted


class Stop:
    """Whether the run was asked to stop. `signal` is the number that came to this process, or None."""

    def __init__(self):
        self.signal: int | None = None

    def requested(self) -> bool:
        """Whether any rank was asked (a collective: call it on all ranks at the same place)."""
        return ranks.any_rank(self.signal is not None)

    def check(self) -> None:
        """Raise Interrupted on every rank if any was asked to stop."""
        if self.requested():
            raise Interrupted(self.signal or signal.SIGTERM)


@contextmanager
def listening(on_signal=None) -> Iterator[Stop]:
    """A Stop that hears SIGTERM and SIGINT for the length of the block; `on_signal` is told the first."""
    stop = Stop()

    def hear(number, _frame):
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if stop.signal is None and on_signal:
            on_signal(number)
        stop.signal = number

    old = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
