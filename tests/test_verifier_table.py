"""The table of verifiers and the recipe's classes say the same."""

from cpt.recipe.rewards import CORRECTNESS, KINDS, VOTES, kind_of
from cpt.rewards.verifiers import VERIFIERS, time_limit


def test_kinds():
    assert [*VERIFIERS] == [kind_of(each) for each in KINDS]
    assert {*VOTES} == {name for name, kind in VERIFIERS.items() if kind.reader is not None}
    assert {*VOTES} == {name for name, kind in VERIFIERS.items() if kind.problem is not None}
    assert {*VERIFIERS} - {*CORRECTNESS} == {"function", "sum"}


def test_those_that_can_hang_have_a_time_limit_of_the_recipes():
    """But reasoning-gym's scorers, which the library gives five seconds each."""
    limited = {kind_of(each) for each in KINDS if "timeout" in each.model_fields}
    assert limited == {name for name, kind in VERIFIERS.items() if kind.killable} - {"reasoning_gym"}
    assert time_limit({"kind": "format", "pattern": "a", "timeout": 0.5}) == 0.5
