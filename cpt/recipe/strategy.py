"""What every strategy of a recipe has."""

from collections.abc import Iterator

from cpt.recipe.stages import Strict


class StrategySpec(Strict):
    """The base of the strategies' fields; what is here says: nothing."""

    def whole_weights(self) -> Iterator[tuple[str, str]]:
        """(field, what it needs) of all that needs whole weights or gradients in each process, so none that are sharded."""
        yield from ()
