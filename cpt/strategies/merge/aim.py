"""`aim` (AIMMerging, 2509.17348): changes of the point before the task, by the new task and by rows kept of the old ones.

theta + w_new delta_new + w_memory delta_memory; here w_memory is the recipe's weight and w_new the rest, so that with
`start: previous` the merge lies between the two models. Departures:

1. The authors' trainer takes the memory's few steps on from the new model, with its optimiser, and measures their change
   from there: `start: new`, in which delta_memory is the change of both less that of the new model.
2. They merge many times within a task, when the size of the changes (a learning signal) and the loss on kept rows (a
   forgetting signal) say so, and let these choose w_memory of .4, .5 and .6. Here it is once, when the task ends.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpt.strategies.merge.method import Inputs, RunMethod


class Aim(RunMethod):
    """No earlier point is merged: the second model is trained when the task ends."""

    def old_models(self, points: Sequence[Path], factors: bool) -> list[Path]:
        return []

    def inputs(self, stage, services, model: Path, before: Sequence[Path], factors: bool, place: Path) -> Inputs:
        """The second model is trained where a task was before, and the weight is not 0."""
        if len(stage.points) == 1 or not (self.spec.search or self.changes(self.value(len(stage.points)))):
            return Inputs([model], [])
        folder, memory = place / "memory", self.spec.memory
        source = model if memory.start == "new" else stage.previous
        rehearsal = services.rehearse(stage, services, memory, self.name, source, folder)
        return Inputs([model, folder / "model"], [stage.previous], rehearsal=rehearsal)

    def arguments(self, stage, inputs: Inputs, value: float | None) -> dict[str, Any]:
        weights = weights_of_changes(value, self.spec.memory.start)
        return {"method": "aim", "base": stage.previous, "weights": weights}


def weights_of_changes(value: float, start: str) -> list[float]:
    """What the changes of the new model and of the memory's count, both measured from the point before the task."""
    return [1 - value, value] if start == "previous" else [1 - 2 * value, value]
