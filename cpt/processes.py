"""Processes that we start: Python without the working directory on its path, and the end of all that a process has started.

Linux gives a process the orphans of its descendants (PR_SET_CHILD_SUBREAPER), so even a daemon (forked twice, in a session of
its own) can be found and ended. Elsewhere only the children that are still there are.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ROOT = Path(__file__).parents[1]  # where `cpt` is, should it not be installed: last on the path
RUN = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def python(module: str, *arguments: str) -> list[str]:
    """The command `python -m module arguments`, but that a file in the working directory cannot stand in for a library's."""
    return [sys.executable, "-P", "-c", RUN, str(ROOT), module, *arguments]


def adopt_orphans() -> None:
    """Become the parent of every descendant whose parent ends."""
    control(PR_SET_CHILD_SUBREAPER, 1)


def control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def end_descendants() -> None:
    """End all processes below this one, which must have called `adopt_orphans`; returns when they are gone."""
    import psutil

    me = psutil.Process()
    while True:
        for child in me.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def supervise(work: Callable[[], None]) -> None:
    """Run `work` in a child process, and end with its exit code (128 and more: the signal that ended it).

    When it ends, when our parent is gone, or when we are sent SIGTERM, whatever it has started ends too. Elsewhere
    than on Linux `work` simply runs.
    """
    if sys.platform != "linux":
        work()
        return
    parent = os.getppid()
    adopt_orphans()
    wanted = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
        control(PR_SET_PDEATHSIG, signal.SIGKILL)
        work()
        sys.stderr.flush()
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):  # the pipes are the child's: their other ends must see when it is gone
        os.dup2(nothing, descriptor)
    code = None
    while code is None and os.getppid() == parent:
        came = signal.sigtimedwait(wanted, 0.5)
        if came is not None and came.si_signo == signal.SIGTERM:
            break
        code = reap(child)
    end_descendants()
    os._exit(143 if code is None else code if code >= 0 else 128 - code)


def reap(child: int) -> int | None:
    """Take note of all children that have ended; the exit code of `child` (negative: a signal), None while it lives."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
    return code
