"""`merge`: after each task or stage the new model is merged with earlier ones, by the functions of `cpt merge` over folders.

WiSE-FT (2109.01903) joins a fine-tuned model with the one before it, once; here that is done after every task, and the next
task goes on from the merge (or not: MagMax, 2407.06322, trains on and merges all). A search differs from the papers' in that
it looks at old and new tasks together, never at evaluation rows, and may find that no merge is best. `aim` has a second
model trained when the task ends; what of AIMMerging that is not is in `weights_of_aim`. docs/strategies.md
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cpt import ranks
from cpt.adapters import is_adapter
from cpt.files import read_sealed, write_sealed
from cpt.merging.merge import merge
from cpt.recipe import Recipe
from cpt.strategies.acceptance import broken_gates, choose, mean
from cpt.strategies.base import Strategy
from cpt.strategies.fisher import Diagonals

JUDGED = "judged.json"  # what a search knows already: after a kill nothing is asked twice


class Merge(Strategy):
    """`rows`: of a search, the validation accuracies that each task's last merge left, the one under way included."""

    def __init__(self, recipe: Recipe, spec: Any, name: str):
        super().__init__(recipe, spec, name)
        self.rows: list[dict[str, float]] = []
        self.folder: Path | None = None  # of the last merge; None where the model stays as it was trained
        self.did: dict[str, Any] | None = None
        self.diagonals = Diagonals(name, of_all=spec.feed_back) if spec.method == "fisher" else None
        self.fishers: list[Path] = []  # of the models that are merged, in their order

    def before_stage(self, stage, services, rows):
        if self.diagonals is not None:
            self.diagonals.before_stage()
        return rows

    def callbacks(self, stage, services) -> list:
        return [] if self.diagonals is None else [self.diagonals.callback(stage, services)]

    def saved(self, stage, services, model, save: Callable[[Path], None]) -> None:
        if self.diagonals is not None:
            self.diagonals.saved(stage, services, model, save)

    def after_stage(self, stage, services, rows) -> Path | None:
        self.folder = self.did = None
        if self.spec.after == "task":
            return None
        self._merge(stage, services, stage.target, [*stage.points, *stage.stages], stage.target.parent / self.name)
        folder, self.folder = self.folder, None  # it becomes the stage's model: nothing else is served
        return folder

    def after_task(self, stage, services, model: Path) -> Path | None:
        self.folder = self.did = None
        if self.spec.after == "stage":
            return None
        self._merge(stage, services, model, stage.points, stage.target.parents[1] / self.name)
        return self.folder if self.spec.feed_back else None

    def _merge(self, stage, services, model: Path, before: Sequence[Path], place: Path) -> None:
        """Merge `model` with what came `before` it, in `place`: `folder` is the merge, `did` what was done."""
        spec = self.spec
        factors = self.recipe.adapter is not None and spec.adapters == "factors"
        models = [model, *earlier(spec, before, factors)]
        if factors:  # a stage that trained nothing left the untouched model
            models = [each for each in models if is_adapter(each)] if is_adapter(model) else [model]
        if self.diagonals is not None:
            models, self.fishers = self.diagonals.after_task(stage, services, models)
        memory = self._memory(stage, services, model, place) if spec.method == "aim" else None
        if memory:
            models = [model, place / "memory" / "model"]
        found: dict[str, Any] = {"value": None, "merged": False, "seconds": 0.0, "rollout_tokens": 0, "curve": []}
        if spec.search:
            found |= self._search(stage, services, models, place)
        elif can_merge(spec, models):
            found |= fixed(spec, len(stage.points))
        if memory:
            found |= {"memory": memory, "train_tokens": memory.pop("train_tokens")}
            found["seconds"] = round(found["seconds"] + memory.pop("seconds"), 3)
        self.folder = place / "model" if found["merged"] else None
        if self.folder is not None:
            start = time.monotonic()
            ranks.on_main(self._write, stage, services, models, found["value"], self.folder)
            found["seconds"] = round(found["seconds"] + time.monotonic() - start, 3)
        who = {"strategy": self.name, "method": spec.method, "after": spec.after, "feed_back": spec.feed_back}
        who["option"] = spec.option
        old = stage.points[-1:] if memory else models[1:]
        self.did = {**who, "points": [each.parent.name for each in old], **found}
        self.did["told"] = told(self.did)
        where = stage.task.name if spec.after == "task" else f"{stage.task.name} {stage.name}"
        services.screen.line(f"{where} {self.name}: {self.did['told']}")

    def _memory(self, stage, services, model: Path, place: Path) -> dict[str, Any] | None:
        """aim: train the second model, to `place`/memory/model; None where no task was before, or the weight is 0."""
        if len(stage.points) == 1 or not (self.spec.search or fixed(self.spec, len(stage.points))["merged"]):
            return None
        source = model if self.spec.memory.start == "new" else stage.points[-1]
        return services.rehearse(stage, services, self.spec.memory, self.name, source, place / "memory")

    def served(self, stage, services) -> Path | None:
        return self.folder

    def merged(self) -> dict[str, Any] | None:
        return self.did

    def _write(self, stage, services, models: Sequence[Path], value: float | None, out: Path) -> None:
        """The merge with `value` as its weight or scale, on rank 0."""
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        stop = services.stop if ranks.world_size() == 1 else None  # a rank alone cannot ask the others
        base = stage.points[-1] if self.spec.method == "aim" else stage.base
        told = arguments(self.spec, models, base, value, stage.seed) | self._reading(stage, services, models)
        merge(**told, fishers=self.fishers, out=out, stop=stop)

    def _reading(self, stage, services, models: Sequence[Path]) -> dict[str, Any]:
        """How adapters are read: by their factors, or as the weights in which the policy computes."""
        if self.spec.adapters == "factors" or not any(map(is_adapter, models)):
            return {}
        dtype = self.recipe.model.dtype
        return {"into": stage.base, "dtype": None if dtype == "auto" else dtype}

    # -- search ------------------------------------------------------------------------------------------------------

    def _search(self, stage, services, models: Sequence[Path], place: Path) -> dict[str, Any]:
        """The value to take (None: the model as it is), the whole curve, and what it cost. On all ranks.

        With nothing to merge yet the model is judged all the same: later gates compare with what it can.
        """
        mergeable = can_merge(self.spec, models)
        values = [None, *(towards_old(self.spec) if mergeable else ())]
        known = ranks.on_main(read, stage, services, self.name, place / JUDGED)
        for value in values:
            if repr(value) not in known:
                services.stop.check()
                known[repr(value)] = self._judge(stage, services, models, value, place / "candidate")
                ranks.on_main(write_sealed, place / JUDGED, known)
        judged = [known[repr(value)] for value in values]
        accuracies, gates = [each["accuracy"] for each in judged], self.recipe.evaluation.gates
        rows = self.rows[: len(stage.points) - 1]  # without that of the stage before
        best = choose(accuracies, rows, gates)
        curve = [
            {
                "value": value,
                "accuracy": each,
                "mean": mean(each),
                "breaks": broken_gates(each, rows, gates),
                "taken": number == best,
            }
            for number, (value, each) in enumerate(zip(values, accuracies, strict=True))
        ]
        self.rows = [*rows, accuracies[best]]
        cost = {name: round(sum(each[name] for each in judged), 3) for name in ("seconds", "rollout_tokens")}
        return {"value": values[best], "merged": best > 0, "curve": curve if mergeable else [], **cost}

    def _judge(self, stage, services, models: Sequence[Path], value: float | None, folder: Path) -> dict[str, Any]:
        """{accuracy: {task: on validation}, seconds, rollout_tokens} of one candidate, whose weights are not kept."""
        start = time.monotonic()
        if value is not None:
            ranks.on_main(self._write, stage, services, models, value, folder)
        accuracy, cost = services.evaluate_on_validation(models[0] if value is None else folder)
        ranks.barrier()
        ranks.on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
        return {"accuracy": accuracy, **cost, "seconds": round(time.monotonic() - start, 3)}

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def save(self, folder: Path) -> None:
        super().save(folder)
        if self.diagonals is not None:
            self.diagonals.save(folder)


def earlier(spec: Any, points: Sequence[Path], adapter: bool) -> list[Path]:
    """The old models: the points that `sources` names. 00-base is none of them where its change (of itself) is no vector,
    where no gradient was seen (fisher), nor under an adapter, which it has not. aim has none: its second model is trained."""
    if spec.method == "aim":
        return []
    if spec.sources == "base":
        return [] if spec.facts.changes_of == "base" else [points[0]]
    without_base = adapter or spec.facts.changes_of == "base" or spec.facts.needs_fisher
    usable = list(points[1:] if without_base else points)
    return usable if spec.sources == "all" else usable[-1:]


def can_merge(spec: Any, models: Sequence[Path]) -> bool:
    return len(models) >= spec.facts.least


def fixed(spec: Any, task: int) -> dict[str, Any]:
    """The recipe's weight or scale in task number `task` (1: the first), and whether it changes anything."""
    value = getattr(spec, spec.option) if spec.option else None
    if spec.scheduled:
        value = spec.scheduled[task - 1]
    if value is None and spec.method == "fisher":  # equal weights: the diagonals alone decide
        value = "average" if spec.sources == "all" else 0.5
    if value == "average":
        value = (task - 1) / task
    elif value is None and spec.option:
        value = spec.facts.weight if spec.option == "weight" else spec.facts.defaults[spec.option]
    return {"value": value, "merged": not (spec.option == "weight" and value == 0)}


def towards_old(spec: Any) -> list[float]:
    """The values of a search, from the new model to the old one: rising weights (0 is the new model), falling scales."""
    if spec.option == "weight":
        return sorted(value for value in spec.search if value > 0)
    return sorted(spec.search, reverse=True)


def arguments(spec: Any, models: Sequence[Path], base: Path, value: float | None, seed: int) -> dict[str, Any]:
    """What `cpt.merging.merge.merge` is told. The new model comes first: config, tokenizer and dtype are its own."""
    if spec.method == "aim":
        return {"method": "aim", "models": models, "base": base, "weights": weights_of_aim(value, spec.memory.start)}
    if spec.option == "weight":
        old = len(models) - 1
        weights = [1 - value, *[value / old] * old]
        method = "linear" if spec.method == "wise" and old > 1 else spec.method
        return {"method": method, "models": models, "weights": weights}
    names = ("density", "gamma", "epsilon", "trim")
    told = {name: getattr(spec, name) for name in names if getattr(spec, name) is not None}
    told |= {"scale": value} if spec.option == "scale" else {}
    told |= {"seed": seed} if spec.facts.is_random else {}
    return {"method": spec.method, "models": models, "base": base if spec.facts.needs_base else None, **told}


def weights_of_aim(value: float, start: str) -> list[float]:
    """What the changes of the new model and of the memory's count, both measured from the point before the task.

    AIMMerging (2509.17348): theta + w_new delta_new + w_memory delta_memory; here w_memory is `value` and w_new the rest, so
    that with `start: previous` the merge lies between the two models. The authors' trainer takes the memory's few steps on
    from the new model, with its optimiser, and measures their change from there: `start: new`, in which delta_memory is the
    change of both less that of the new model. Not here: they merge many times within a task, when the size of the changes (a
    learning signal) and the loss on kept rows (a forgetting signal) say so, and let these choose w_memory of .4, .5 and .6.
    """
    return [1 - value, value] if start == "previous" else [1 - 2 * value, value]


def told(did: dict[str, Any]) -> str:
    """One line of what was merged, and why."""
    if not did["merged"]:
        if not did["curve"]:
            return "not merged: there is nothing to merge with yet"
        return (
            f"not merged: of the searched values of {did['option']} none that keeps the gates is as good on validation as "
            f"the model as it is ({did['curve'][0]['mean']:.3f})"
        )
    said = did["method"] if did["option"] is None else f"{did['method']}, {did['option']} {did['value']:g}"
    if "memory" in did:
        said += f", with what {did['memory']['steps']} steps on {did['memory']['rows']} rows of earlier tasks made"
    else:
        said += f", with {' '.join(did['points'])}" if did["points"] else ", its own change alone"
    if did["curve"]:
        best = next(each for each in did["curve"] if each["taken"])
        said += f"; on validation {best['mean']:.3f}, unmerged {did['curve'][0]['mean']:.3f}"
    return said


def read(stage, services, name: str, file: Path) -> dict[str, Any]:
    """What a search knew before the run was stopped."""
    try:
        return read_sealed(file) or {}
    except ValueError as error:
        services.screen.warn(f"{stage.task.name} {name}: {error}; its values are judged again")
        return {}
