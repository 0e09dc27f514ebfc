"""Runs a command that must not outlive its parent: `python -m cpt.rollouts.keeper LOGFILE COMMAND...`

The parent holds our stdin. When it closes that, or is gone (even by -9, when the system closes it), the command and all its
children end. The command has a process group of its own, whose number is our first line: a Ctrl-C on the terminal is the
parent's to handle.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil

GRACE = 10.0  # seconds between asking to end and ending


def end(process: subprocess.Popen) -> None:
    """End the process and all its descendants."""
    family = []
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what is left of the group, also where its leader died by itself
    for each in family:
        if each.is_running():
            each.kill()


def main(logfile: str, command: list[str]) -> int:
    with Path(logfile).open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        print(process.pid, flush=True)  # which is its process group too
        signal.signal(signal.SIGTERM, lambda *_: (end(process), sys.exit(143)))
        while process.poll() is None:
            readable, _, _ = select.select([sys.stdin], [], [], 0.5)
            if readable and not os.read(sys.stdin.fileno(), 1024):
                break
        end(process)
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
