"""The contract of a suite that is the user's own (docs/extending.md)."""

from typing import Any, ClassVar

from cpt.recipe.base import SuiteSpec


class SuiteKind:
    """A suite whose tasks are made by Python. `spec` has the recipe's `options`, the fields of `Options`."""

    Options: ClassVar[type[SuiteSpec]] = SuiteSpec

    def __init__(self, spec: Any):
        self.spec = spec

    def tasks(self) -> list[dict[str, Any]]:
        """The tasks, as a suite's file has them: plain data, the same each time.

        Rows that are made here stand in `data: {source: rows, eval: [...]}`.
        """
        raise NotImplementedError
