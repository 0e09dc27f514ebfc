"""The catalogue of verifiers, the recipe's classes, the modules and the documentation say the same."""

from pathlib import Path
from typing import get_args

import pytest

from cpt.recipe import rewards
from cpt.rewards.verifiers import module_of, time_limit
from cpt.verifier_kinds import KINDS, READ_ANSWERS, table

CLASSES = {get_args(each.model_fields["kind"].annotation)[0]: each for each in get_args(get_args(rewards.Reward)[0])}


def test_kinds():
    assert [*KINDS] == [*CLASSES]
    assert {name for name, kind in KINDS.items() if not kind.measures_correctness} == {"function", "sum"}


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "sum"])
def test_a_module_has_what_the_catalogue_says(kind):
    module = module_of({"kind": kind})
    assert callable(module.build)
    assert hasattr(module, "reader") == hasattr(module, "problem") == (kind in READ_ANSWERS)


def test_those_that_can_hang_have_a_time_limit_of_the_recipes():
    """But reasoning-gym's scorers, which the library gives five seconds each."""
    limited = {name for name, each in CLASSES.items() if "timeout" in each.model_fields}
    assert limited == {name for name, kind in KINDS.items() if kind.may_hang} - {"reasoning_gym"}
    assert time_limit({"kind": "format", "pattern": "a", "timeout": 0.5}) == 0.5


def test_the_documentation_has_the_catalogue():
    docs = Path(__file__).parent.parent / "docs" / "verifier.md"
    assert table() in docs.read_text(encoding="utf-8")
