"""JSON as it is written: no key twice, numbers with their text, no half of a surrogate pair."""

import json
from json import JSONDecodeError
from typing import Any

from cpt.data.readers.record import Broken, Number


def once(pairs: list[tuple[str, Any]]) -> dict:
    """The object of these pairs. Raises ValueError where a key appears twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise ValueError(f"the key {twice!r} appears twice")
    return made


def integer(text: str) -> int | Number:
    """-0 is no 0. Raises ValueError for one that Python does not read."""
    if len(text) > 4000:
        raise ValueError("a number of more than 4000 digits: write it as text, in quotes")
    return Number(text) if text == "-0" else int(text)


DECODER = json.JSONDecoder(object_pairs_hook=once, parse_float=Number, parse_int=integer)


def decoded(text: str) -> Any:
    """The one value in the text. Raises the errors that `broken` tells."""
    value = DECODER.decode(text)
    check_surrogates(text, value)
    check_depth(text, value)
    return value


DEEPEST = 200  # levels of lists and objects: what is deeper could not be written again by every library on its way


def check_depth(text: str, value: Any) -> None:
    """Raises RecursionError for a value that is nested deeper than any of a row."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    level = [value]
    for _ in range(DEEPEST):
        level = [each for here in level for each in (here.values() if isinstance(here, dict) else here)]
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return
    raise RecursionError


def check_surrogates(text: str, value: Any) -> None:
    """Raises UnicodeEncodeError where an escape made half of a surrogate pair: such a text cannot be written."""
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()


MISTAKES = (ValueError, RecursionError)  # what is raised for text that is not JSON; a UnicodeError is a ValueError too


def broken(error: Exception, text: str | bytes) -> Broken:
    """The error in words, with the beginning of the text."""
    text = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
    shown = f": {text.strip()[:60]!r}"
    if isinstance(error, UnicodeDecodeError):
        return Broken("not UTF-8", f" ({error.reason}): save the file as UTF-8 text")
    if isinstance(error, UnicodeEncodeError):
        return Broken("holds half of a surrogate pair", shown)
    if isinstance(error, JSONDecodeError):
        return Broken("not valid JSON", f" ({error.msg}){shown}")
    if isinstance(error, RecursionError):
        return Broken("nested too deeply", shown)
    return Broken(str(error), shown)
