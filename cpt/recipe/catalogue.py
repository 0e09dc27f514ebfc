"""What a recipe may name: the shipped recipes and suites, verifiers, strategies and kinds of stages, a line each."""

from collections.abc import Iterator
from typing import get_args

from cpt.recipe.loading import composed
from cpt.recipe.nodes import read
from cpt.recipe.rewards import KINDS as VERIFIERS
from cpt.recipe.rewards import Likelihood
from cpt.recipe.stages import KINDS as STAGES
from cpt.recipe.strategies import STRATEGY_MODELS
from cpt.recipe.yaml_reader import Node
from cpt.shipped import shipped

STRATEGIES = {get_args(each.model_fields["kind"].annotation)[0]: each for each in STRATEGY_MODELS}
CLASSES = {"verifiers": VERIFIERS | {"likelihood": Likelihood}, "strategies": STRATEGIES, "stages": STAGES}
ALSO = {  # what may be named besides
    "recipes": "or the path of a .yaml file; `cpt check NAME` shows what it does (docs/recipe.md)",
    "suites": "or the path of a .yaml file, lm_eval:TASK,TASK, or module:Class of your own (docs/benchmarks.md)",
    "verifiers": "or module:function of your own (docs/verifier.md)",
    "strategies": "or module:Class of your own (docs/strategies.md, docs/extending.md)",
    "stages": "or module:Class of your own (docs/recipe.md, docs/extending.md)",
}
KINDS = tuple(ALSO)


def catalogue(kind: str) -> dict[str, str]:
    """{name: what it is, in one line} of all of one of `KINDS`."""
    return dict(entries(kind))


def entries(kind: str) -> Iterator[tuple[str, str]]:
    if kind in CLASSES:
        yield from ((name, first_line(made.__doc__ or "")) for name, made in CLASSES[kind].items())
        return
    for name, file in shipped("recipes" if kind == "recipes" else "eval").items():
        yield name, described(composed(name, ()) if kind == "recipes" else read(file))


def described(root: Node) -> str:
    node = root.value.get("description")
    return "" if node is None else first_line(str(node.value))


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
