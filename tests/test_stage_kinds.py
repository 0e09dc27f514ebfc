"""A kind of stage is one class: it states its facts, its tables agree, and nobody else asks which kind a stage is."""

import ast
from pathlib import Path

import pytest

from cpt.data.rows import FORMS, NEEDS
from cpt.recipe.stages import KINDS, Hybrid, Rlvr, Sft, StageSpec
from cpt.recipe.trl_configs import TRL_CONFIGS

PACKAGE = Path(__file__).parent.parent / "cpt"
STAGES = ("stage", "spec", "self", "each")  # what a stage's or a strategy's spec is called


def test_forms_are_those_of_the_classes():
    assert set(FORMS) == set(NEEDS) == {spec.row_form for spec in KINDS.values()}


@pytest.mark.parametrize("kind", KINDS)
def test_its_facts(kind):
    spec = KINDS[kind]
    assert spec.trl_config in TRL_CONFIGS and spec.row_form in FORMS
    assert callable(spec.implemented().run)
    assert issubclass(spec, StageSpec) and set(spec.refused) <= spec.arguments().keys()
    own = [name for name in spec.optional if name not in spec.model_fields]
    assert all(getattr(spec, name) is None for name in own), "an option of other kinds is None"


def test_options_that_no_kind_has_are_not_listed():
    having = {name for spec in KINDS.values() for name in spec.model_fields}
    assert set(StageSpec.optional) <= having


def test_what_an_argument_will_be():
    assert Rlvr(kind="rlvr", args={"beta": 0.5}).value("beta") == 0.5
    assert Rlvr(kind="rlvr").value("num_generations") == 8, "TRL's default"
    assert Hybrid(kind="hybrid", method="hpt").value("max_length") is None, "no argument of GRPOConfig's"
    assert Sft(kind="sft").longest_answer(64) == 0


def asked_kinds(tree: ast.AST) -> list[int]:
    """The lines that compare the kind of a stage, or of a strategy, with a word."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Attribute)
        and node.left.attr == "kind"
        and ast.unparse(node.left.value).split(".")[-1] in STAGES
    ]


def test_nobody_asks_which_kind_a_stage_is():
    assert asked_kinds(ast.parse("if stage.spec.kind == 'sft': pass")) == [1], "the test can fail"
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = asked_kinds(ast.parse(path.read_text(encoding="utf-8")))
        assert not [line for line in lines if path.name != "stochastic_restore.py"], f"{path}: {lines}"
