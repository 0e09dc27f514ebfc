"""Strategies against forgetting: one method a file, listed here by the recipe's name. None exists yet; the hooks do."""

from cpt.strategies.base import Strategy

STRATEGIES: dict[str, type[Strategy]] = {}
