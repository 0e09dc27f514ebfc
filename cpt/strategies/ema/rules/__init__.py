"""The rules of an average, one a file; `recipe.strategies.EMA_RULES` names them."""

from importlib import import_module

from cpt.recipe.strategies import EMA_RULES
from cpt.strategies.ema.rules.base import Rule


def rule_class(name: str) -> type[Rule]:
    """The class of the rule `name`."""
    module, kind = EMA_RULES[name].implementation.split(".")
    return getattr(import_module(f"{__name__}.{module}"), kind)
