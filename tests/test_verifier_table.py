"""The classes of verifiers in the recipe, their modules and the documentation say the same."""

from pathlib import Path

import pytest

from cpt.recipe.rewards import KINDS, READ_ANSWERS, table
from cpt.rewards.verifiers import may_hang, module_of, time_limit


def test_kinds():
    assert {name for name, kind in KINDS.items() if not kind.measures_correctness} == {"function", "sum"}
    assert READ_ANSWERS == ("exact", "math", "choice", "label", "f1")


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "sum"])
def test_a_module_has_what_its_class_says(kind):
    module = module_of({"kind": kind})
    assert callable(module.build)
    assert hasattr(module, "reader") == hasattr(module, "problem") == (kind in READ_ANSWERS)


def test_those_that_can_hang_have_a_time_limit_of_the_recipes():
    """But reasoning-gym's scorers, which the library gives five seconds each."""
    limited = {name for name, each in KINDS.items() if "timeout" in each.model_fields}
    hanging = {name for name in KINDS if name != "sum" and may_hang({"kind": name})}
    assert limited == hanging - {"reasoning_gym"}
    assert time_limit({"kind": "format", "pattern": "a", "timeout": 0.5}) == 0.5


def test_the_documentation_has_the_catalogue():
    docs = Path(__file__).parent.parent / "docs" / "verifier.md"
    assert table() in docs.read_text(encoding="utf-8")
