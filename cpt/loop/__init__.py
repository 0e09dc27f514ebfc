"""The run: `points` is the loop, `tasks` trains what it finds untrained, `rows` evaluates."""

from cpt.loop.points import run

__all__ = ["run"]
