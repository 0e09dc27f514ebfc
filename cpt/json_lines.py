"""Files of JSON lines: the lines of a form, and which of the others are damaged."""

import json
from typing import Any, NamedTuple

from cpt import records


class Damage(NamedTuple):
    """A line that cannot be used: its number (from 1), why, and its bytes."""

    number: int
    why: str
    line: bytes


def read_lines(content: bytes, form: type) -> tuple[list[dict[str, Any]], list[Damage]]:
    """The lines of that form (see `records`), and the damaged ones.

    A last line without its end is of a process that was killed while writing it: it is neither.
    """
    good: list[dict[str, Any]] = []
    damaged: list[Damage] = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
            why = records.wrong(value, form)
        except UnicodeDecodeError:
            why = "not UTF-8"
        except (ValueError, RecursionError) as error:
            why = f"not JSON ({error})"
        if why is None:
            good.append(value)
        else:
            damaged.append(Damage(number, why, line))
    return good, damaged


def places(damaged: list[Damage]) -> str:
    """`line 3 (not JSON ...)`, and how many more there are."""
    first, *more = damaged
    return f"line {first.number} ({first.why})" + (f" and {len(more)} more" if more else "")
