"""`cpt`, and `python -m cpt`, so that `accelerate launch -m cpt run RECIPE` works as users expect."""

import os
import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until we listen, Ctrl-C ends the process as SIGTERM does
if not sys.flags.safe_path and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]  # as for the command `cpt`: a file in the working directory must not stand in for a library's

from cpt.stop import listening


def main() -> None:
    """The command line. Signals are listened to before anything else is imported."""
    with listening(keep=True):
        from cpt.cli.main import main

        main()


if __name__ == "__main__":
    main()
