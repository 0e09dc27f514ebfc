"""`fisher` (2111.09832): models weighted by the diagonals of their Fisher information, which Adam has (`diagonals`)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cpt.strategies.merge.diagonals import Diagonals
from cpt.strategies.merge.interpolation import Interpolation
from cpt.strategies.merge.method import Inputs


class Fisher(Interpolation):
    """00-base is none of the models: no gradient was seen for it."""

    uses_base = False

    def __init__(self, spec, name: str):
        super().__init__(spec, name)
        self.diagonals = Diagonals(name, of_all=spec.feed_back)

    def before_stage(self) -> None:
        self.diagonals.before_stage()

    def callbacks(self, stage) -> list:
        return [self.diagonals.callback(stage)]

    def saved(self, stage, model, save: Callable[[Path], None]) -> None:
        self.diagonals.saved(stage, model, save)

    def save(self, folder: Path) -> None:
        self.diagonals.save(folder)

    def inputs(self, stage, services, model: Path, before: Sequence[Path], factors: bool, place: Path) -> Inputs:
        """Of the old models those that have a diagonal."""
        inputs = super().inputs(stage, services, model, before, factors, place)
        models, fishers = self.diagonals.after_task(stage, inputs.models)
        return replace(inputs, models=models, points=models[1:], fishers=fishers)

    def default(self) -> float | str:
        """All models have the same weight: the diagonals alone decide."""
        return "average" if self.spec.sources == "all" else 0.5
