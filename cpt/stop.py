"""SIGTERM and Ctrl-C: the first asks the process to stop, the second ends it at once.

The signal handler only sets a flag, so wherever it interrupts the program it can do no harm. A thread does the rest. Python
wakes it through a pipe as soon as a signal comes, also while the main thread is inside a long call of a library. It says that
the process is stopping, ends it where the main thread takes longer than its `patience`, and ends it at the second signal.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cpt.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOGETHER = 0.5  # seconds; signals this close are one: timeout(1) and launchers signal a process and its group
PROMPT = 7.0  # seconds that evaluation, sampling, loading and merging have to end by themselves
LOOKS = 0.1  # seconds between two looks of the thread, once a signal came


class Stop:
    """Whether the process was asked to stop, and how long it may take.

    `signal` is the number of the first signal that came to this process, or None. `patience` is how many seconds the main
    thread has to end the process by itself (None: as long as it takes; 0: there is nothing to save). `may_cut` says whether
    the answers that are being generated may be left unfinished. `kept` says for the user what an end at once leaves.
    `owns_process` is False under a Python session, which is never ended: there the second signal is a KeyboardInterrupt.
    """

    def __init__(self, patience: float | None = 0.0, owns_process: bool = True):
        self.signal: int | None = None
        self.owns_process = owns_process
        self.patience, self.may_cut = patience, True
        self.kept = "nothing was written"
        self.last_acts: list[Callable[[], None]] = []
        self._ending = threading.Lock()

    # -- for the main thread -----------------------------------------------------------------------------------------

    def requested(self) -> bool:
        """Whether any rank was asked to stop (a collective: call it on all ranks at the same place)."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return self.signal is not None  # without an import of accelerate, which takes seconds
        from cpt import ranks

        return ranks.any_rank(self.signal is not None)

    def check(self) -> None:
        """Raise Interrupted on every rank if any was asked to stop."""
        if self.requested():
            raise Interrupted(self.signal or signal.SIGTERM)

    def cuts(self) -> bool:
        """Whether this process should leave its answers unfinished now. No collective: cheap enough for every token."""
        return self.signal is not None and self.may_cut

    def check_cut(self) -> None:
        """Raise Interrupted on every rank if one of them left its answers unfinished (a collective)."""
        if self.may_cut:
            self.check()

    def look(self) -> None:
        """Raise Interrupted on this rank alone if its answers may be left unfinished; for what only rank 0 waits for."""
        if self.cuts():
            raise Interrupted(self.signal)

    @contextmanager
    def within(self, patience: float | None) -> Iterator[None]:
        """The patience for the length of the block, in which answers may be left unfinished.

        Where the block raises, what it was called by has as much time as any other part to clean up.
        """
        old = self.patience, self.may_cut
        self.patience, self.may_cut = patience, True
        try:
            yield
        except BaseException:
            self.patience = PROMPT
            raise
        self.patience, self.may_cut = old

    @contextmanager
    def removing(self, remove: Callable[[], None]) -> Iterator[None]:
        """Call `remove` where the process ends at once within the block, whose own clean-up is then left out."""
        self.last_acts.append(remove)
        try:
            yield
        finally:
            self.last_acts.remove(remove)

    def end(self, code: int, line: str) -> None:
        """Print the line and end the process, without the interpreter's own end, which takes seconds with torch.

        Of two threads that call this the first one ends the process; the other one waits for that.
        """
        with self._ending:
            if os.environ.get("RANK", "0") == "0":
                text = f"cpt: {line}\n"
                with contextlib.suppress(OSError):
                    os.write(2, (shown_cursor() + text).encode())
            os._exit(code)

    # -- for the thread ----------------------------------------------------------------------------------------------

    def _watch(self, pipe: int) -> None:
        """Live until a 0 comes through the pipe; every signal comes as its number."""
        first, since, patience, announced = None, 0.0, self.patience, False
        while True:
            ready, _, _ = select.select([pipe], [], [], None if first is None else LOOKS)
            now = time.monotonic()
            for number in os.read(pipe, 4096) if ready else b"":
                if number == 0:
                    return
                if number in SIGNALS and first is None:
                    first = since = now
                    self.signal = self.signal or number
                elif number in SIGNALS and now - first > TOGETHER and self.owns_process:
                    self._end_at_once(number)
            if first is None:
                continue
            if not announced and now - first > TOGETHER:
                announced = True
                self._say_that_it_stops()
            if not self.owns_process:
                continue
            if self.patience != patience:  # another part of the program began: it has its own time
                since, patience = now, self.patience
            if patience is not None and now - since >= patience:
                self._end_at_once(self.signal)

    def _say_that_it_stops(self) -> None:
        if os.environ.get("RANK", "0") == "0" and not self._ending.locked():
            what = "stopping after this step, which is saved" if self.patience is None else "stopping"
            start = "\r\x1b[2K" if os.isatty(2) else ""  # a progress bar may stand on this line
            with contextlib.suppress(OSError):
                os.write(2, f"{start}cpt: {what}; a second signal (Ctrl-C) ends it at once\n".encode())

    def _end_at_once(self, number: int) -> None:
        for act in self.last_acts:
            with contextlib.suppress(OSError):
                act()
        self.end(128 + number, f"stopped at once; {self.kept} (signal {number})")


def shown_cursor() -> str:
    """What brings back the cursor of a terminal that a progress bar hid, and clears the bar's line."""
    return "\r\x1b[2K\x1b[?25h" if os.isatty(2) else ""


# -- the process's one listener ------------------------------------------------------------------------------------------

_active: Stop | None = None


def current() -> Stop:
    """The Stop of this process; one that never stops where nobody listens."""
    return _active or Stop()


@contextmanager
def listening(keep: bool = False, owns_process: bool = True) -> Iterator[Stop]:
    """The process's Stop, which hears SIGTERM and SIGINT for the length of the block.

    Inside another such block it is the same one. Only the main thread can listen: elsewhere it is one that hears nothing.
    `keep`: the process ends after the block, so a signal that comes while the interpreter ends is ignored.
    `owns_process`: whether the second signal may end the process; otherwise it raises KeyboardInterrupt.
    """
    global _active
    if _active is not None or threading.current_thread() is not threading.main_thread():
        yield current()
        return
    stop = _active = Stop(owns_process=owns_process)
    out, into = os.pipe()
    os.set_blocking(into, False)

    first: list[float] = []

    def hear(number: int, _frame) -> None:
        stop.signal = stop.signal or number
        first.append(time.monotonic())
        if not owns_process and first[-1] - first[0] > TOGETHER:
            raise KeyboardInterrupt

    thread = threading.Thread(target=stop._watch, args=(out,), name="signals", daemon=True)
    thread.start()
    wakeup = signal.set_wakeup_fd(into, warn_on_full_buffer=False)
    old = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, signal.SIG_IGN if keep else handler)
        signal.set_wakeup_fd(wakeup)
        _active = None
        os.write(into, b"\0")
        thread.join()
        os.close(into), os.close(out)


def _in_forked_child() -> None:
    """A forked worker (of a DataLoader, of `datasets`) must not wake its parent's thread, and leaves Ctrl-C to it."""
    global _active
    if _active is not None:
        _active = None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_in_forked_child)
