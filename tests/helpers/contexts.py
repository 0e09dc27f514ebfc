"""What a stage is given, of the values that a test names."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

from cpt.context import Services, Stage


def stage_and_services(**given) -> tuple[Stage, Services]:
    """A Stage and its Services with these fields, by their names; the others are None, or empty."""
    usual = {"key": "stream.one.stages.0", "name": "0-sft", "seed": 3, "notes": [], "verifier_errors": Counter()}
    usual |= {"leaks": lambda texts: {}}
    values = usual | {"stop": SimpleNamespace(check=lambda: None)} | given
    made = []
    for kind in (Stage, Services):
        names = {field.name for field in dataclasses.fields(kind)}
        made.append(kind(**{name: values.get(name) for name in names}))
    unknown = set(given) - {field.name for kind in (Stage, Services) for field in dataclasses.fields(kind)}
    assert not unknown, unknown
    return tuple(made)
