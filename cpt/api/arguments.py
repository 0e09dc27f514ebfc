"""What the functions of the Python face share: overrides by keyword, loudness, and signals in a session that continues."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cpt.errors import Interrupted
from cpt.recipe import Override
from cpt.screen import NORMAL, QUIET, VERBOSE, Screen
from cpt.stop import Stop, listening


def overrides_of(given: Mapping[str, Any] | Sequence[Override], keywords: Mapping[str, Any]) -> list[Override]:
    """Overrides as a list: `{"stream.reverse.stages.0.args.max_steps": 10}` or `["seed=3"]`, then those by keyword."""
    if isinstance(given, str):
        given = [given]
    return [*(given.items() if isinstance(given, Mapping) else given), *keywords.items()]


def screen_of(quiet: bool, verbose: bool) -> Screen:
    return Screen(QUIET if quiet else VERBOSE if verbose else NORMAL)


@contextmanager
def in_a_session() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM stop what runs in this block as they stop a command, but never end the process.

    Raises:
        KeyboardInterrupt: the run was asked to stop, and has saved its place.
    """
    with listening(owns_process=False) as stop:
        try:
            yield stop
        except Interrupted as error:
            raise KeyboardInterrupt(
                f"{error}: what was committed is kept, and the same call resumes from there"
            ) from error
