"""Whether a value has its form, and what two runs that computed the same have in common."""

from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cpt.files import hash_of


def wrong(value: Any, form: type) -> str | None:
    """Where `value` has not this form, and why, in a few words (`accuracy.0.2: should be a valid number`); None if it has."""
    try:
        _adapter(form).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    return None


UNLIKE = (
    "when",
    "seconds",
    "peak_memory_bytes",
    "cost",
    "evaluation_cost",
    "from_cache",
    "sha256",
)  # in two runs that are the same


def fingerprint(results: dict) -> str:
    """The hash of what two runs of one recipe on one machine have in common: of all but time and memory."""
    return hash_of(_alike(results))


def _alike(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _alike(child) for key, child in value.items() if key not in UNLIKE}
    return [_alike(child) for child in value] if isinstance(value, list | tuple) else value


@cache
def _adapter(form: type):
    return TypeAdapter(form)
