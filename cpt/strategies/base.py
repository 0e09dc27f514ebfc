"""The hooks of a strategy. Each returns a value and touches no shared state; the defaults do nothing.

A new strategy touches three places: its file, the STRATEGIES dict, and its test.
"""

from pathlib import Path
from typing import Any

from cpt.recipe import Recipe


class Strategy:
    """Hooks that do nothing. `options` are the recipe's words beside `kind`, by which a run keeps the state.

    Gradient and loss terms (`weight_gradient`, `penalty`) come with the first strategy that has one.
    """

    kind: str

    def __init__(self, recipe: Recipe, **options: Any):
        self.recipe = recipe

    def before_stage(self, ctx, rows):
        """The rows that the stage trains on (a `datasets.Dataset`)."""
        return rows

    def after_stage(self, ctx, rows) -> None:
        """The stage's model is in `ctx.target`."""

    def after_task(self, ctx) -> Path | None:
        """A folder that takes the place of the task's model (a merge), or None."""
        return None

    def served(self, ctx) -> Path | None:
        """The folder that is evaluated and shipped, where it differs from what trains on; or None."""
        return None

    def callbacks(self, ctx) -> list:
        """transformers' TrainerCallbacks for the stage."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
