"""Runs a command that must not outlive its parent: `python -m cpt.rollouts.supervisor LOGFILE FOLDER COMMAND...`

The parent holds our stdin. When it closes that, or is gone (even by -9, when the system closes it), the command and all that
it has started end, and the folder, which is the command's, is removed. The command has a process group of its own, whose
number is our first line: a Ctrl-C on the terminal is the parent's to handle.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from cpt.processes import adopt_orphans, end_descendants

GRACE = 10.0  # seconds between asking to end and ending


def end(process: subprocess.Popen) -> int:
    """End the process and all its descendants; its exit code."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what is left of the group, also where its leader died by itself
    code = process.wait()
    end_descendants()
    return code


def main(logfile: str, folder: str, command: list[str]) -> int:
    adopt_orphans()
    with Path(logfile).open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        print(process.pid, flush=True)  # which is its process group too
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            while process.poll() is None:
                readable, _, _ = select.select([sys.stdin], [], [], 0.5)
                if readable and not os.read(sys.stdin.fileno(), 1024):
                    break
        finally:
            code = end(process)
            shutil.rmtree(folder, ignore_errors=True)
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
