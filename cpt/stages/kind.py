"""The contract of a kind of stage that is the user's own (docs/extending.md)."""

from typing import ClassVar

from cpt.context import Services, Stage
from cpt.recipe.stages import StageSpec
from cpt.records import StageRecord


class StageKind:
    """One object for each stage that runs.

    `Options` states the facts of the kind (`cpt.recipe.stages.base.StageSpec`: `trl_config` and `row_form` at least), and its
    fields are the recipe's `options`. A subclass of a built-in kind's class (`cpt.recipe.stages.Sft`) has its facts.
    """

    Options: ClassVar[type[StageSpec]] = StageSpec

    def run(self, stage: Stage, services: Services, rows, strategies) -> StageRecord:
        """Train `stage.source` on `rows`, save to `stage.target`, and return the stage's record.

        `rows` is a `datasets.Dataset` of the rows that the strategies left, packed (`cpt.data.rows.unpack`). The `run` of a
        built-in kind, or `cpt.stages.training.train` with a trainer under `StageTrainer`, seats the strategies, and seals
        and resumes checkpoints. On all ranks.

        Raises:
            UserError, Interrupted: as `cpt.stages.training.train` does.
        """
        raise NotImplementedError
