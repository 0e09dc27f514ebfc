"""Strategies against forgetting: one method a file, listed here by the recipe's name."""

from cpt.recipe import Recipe
from cpt.strategies.base import Strategy
from cpt.strategies.ema.strategy import Ema
from cpt.strategies.lookahead import Lookahead
from cpt.strategies.merge.strategy import Merge
from cpt.strategies.stochastic_restore import StochasticRestore

STRATEGIES: dict[str, type[Strategy]] = {
    "ema": Ema,
    "mcl": Ema,
    "lookahead": Lookahead,
    "stochastic-restore": StochasticRestore,
    "merge": Merge,
}


def make(recipe: Recipe) -> list[Strategy]:
    """The recipe's strategies, in its order; each with a name of its own, by which a run keeps its state."""
    return [
        STRATEGIES[spec.kind](recipe, spec, f"{number}-{spec.kind}") for number, spec in enumerate(recipe.strategies)
    ]
