"""Strategies against forgetting: one method a file, which its class in `cpt.recipe.strategies` names."""

from cpt.recipe import Recipe
from cpt.recipe.base import StrategySpec
from cpt.strategies.base import Outcome, Strategy

__all__ = ["Outcome", "Strategy", "StrategySpec", "make"]


def make(recipe: Recipe) -> list[Strategy]:
    """The recipe's strategies, in its order; each with a name of its own, by which a run keeps its state."""
    return [spec.implemented()(recipe, spec, f"{number}-{spec.label}") for number, spec in enumerate(recipe.strategies)]
