"""`merge`: after each task or stage the new model is merged with earlier ones, by the functions of `cpt merge` over folders.

WiSE-FT (2109.01903) joins a fine-tuned model with the one before it, once; here that is done after every task, and the next
task starts from the merge (or not: MagMax, 2407.06322, trains on and merges all). docs/strategies.md
"""

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cpt import ranks
from cpt.adapters import is_adapter
from cpt.merging.merge import merge
from cpt.recipe import Recipe
from cpt.records import MergeRecord
from cpt.strategies.base import Outcome, Strategy
from cpt.strategies.merge.method import Inputs, method_of
from cpt.strategies.merge.search import Search


class Merge(Strategy):
    """`rows`: of a search, the validation accuracies that each task's last merge left, the one under way included."""

    def __init__(self, recipe: Recipe, spec: Any, name: str):
        super().__init__(recipe, spec, name)
        self.method = method_of(spec, name)
        self.rows: list[dict[str, float]] = []

    def before_stage(self, stage, services, rows):
        self.method.before_stage()
        return rows

    def callbacks(self, stage, services) -> list:
        return self.method.callbacks(stage)

    def saved(self, stage, services, model, save: Callable[[Path], None]) -> None:
        self.method.saved(stage, model, save)

    def after_stage(self, stage, services, rows) -> Outcome:
        if self.spec.after == "task":
            return Outcome()
        place = stage.target.parent / self.name
        return self._merge(stage, services, stage.target, [*stage.points, *stage.stages], place)

    def after_task(self, stage, services, model: Path) -> Outcome:
        if self.spec.after == "stage":
            return Outcome()
        made = self._merge(stage, services, model, stage.points, stage.target.parents[1] / self.name)
        return Outcome(made.folder if self.spec.feed_back else None, made.record, served=made.folder)

    def _merge(self, stage, services, model: Path, before: Sequence[Path], place: Path) -> Outcome:
        """Merge `model` with what came `before` it, in `place`."""
        factors = self.recipe.adapter is not None and self.spec.adapters == "factors"
        inputs = self.method.inputs(stage, services, model, before, factors, place)
        write = partial(self._write, stage, services, inputs)
        label = stage.task.name if self.spec.after == "task" else f"{stage.task.name} {stage.name}"
        record: MergeRecord = {
            "strategy": self.name,
            "method": self.spec.method,
            "after": self.spec.after,
            "feed_back": self.spec.feed_back,
            "option": self.spec.option,
            "points": [each.parent.name for each in inputs.points],
            "value": None,
            "merged": False,
            "seconds": 0.0,
            "rollout_tokens": 0,
            "curve": [],
        }
        if self.spec.search:
            record |= self._search(stage, services, inputs, write, place, f"{label} {self.name}")
        elif self.method.can_merge(inputs.models):
            value = self.method.value(len(stage.points))
            record |= {"value": value, "merged": self.method.changes(value)}
        if (cost := inputs.rehearsal) is not None:
            record |= {"memory": {"rows": cost["rows"], "steps": cost["steps"]}, "train_tokens": cost["train_tokens"]}
            record["seconds"] = round(record["seconds"] + cost["seconds"], 3)
        folder = place / "model" if record["merged"] else None
        if folder is not None:
            start = time.monotonic()
            ranks.on_main(write, record["value"], folder)
            record["seconds"] = round(record["seconds"] + time.monotonic() - start, 3)
        record["told"] = description(record)
        services.screen.line(f"{label} {self.name}: {record['told']}")
        return Outcome(folder, record)

    def _search(self, stage, services, inputs: Inputs, write, place: Path, label: str) -> dict[str, Any]:
        """The value to take (None: the model as it is), the whole curve, and what it cost. On all ranks."""
        values = self.method.searched() if self.method.can_merge(inputs.models) else []
        rows = self.rows[: len(stage.points) - 1]  # without that of the stage before
        search = Search(services, inputs.models[0], write, place, rows, self.recipe.evaluation.gates, label)
        curve, cost = search.run(values)
        best = next(each for each in curve if each["taken"])
        self.rows = [*rows, best["accuracy"]]
        return {"value": best["value"], "merged": best["value"] is not None, "curve": curve if values else [], **cost}

    def _write(self, stage, services, inputs: Inputs, value: float | None, out: Path) -> None:
        """The merge with `value` as its weight or scale, on rank 0. Config, tokenizer and dtype are the new model's."""
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        stop = services.stop if ranks.world_size() == 1 else None  # a rank alone cannot ask the others
        options = self.method.arguments(stage, inputs, value) | self._reading(stage, inputs.models)
        merge(**options, models=inputs.models, fishers=inputs.fishers, out=out, stop=stop)

    def _reading(self, stage, models: Sequence[Path]) -> dict[str, Any]:
        """How adapters are read: by their factors, or as the weights in which the policy computes."""
        if self.spec.adapters == "factors" or not any(map(is_adapter, models)):
            return {}
        dtype = self.recipe.model.dtype
        return {"into": stage.base, "dtype": None if dtype == "auto" else dtype}

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.method.save(folder)


def description(record: MergeRecord) -> str:
    """One line of what was merged, and why."""
    if not record["merged"]:
        if not record["curve"]:
            return "not merged: there is nothing to merge with yet"
        return (
            f"not merged: no searched value of {record['option']} that keeps the gates is as good on validation as "
            f"the unmerged model ({record['curve'][0]['mean']:.3f})"
        )
    text = (
        record["method"] if record["option"] is None else f"{record['method']}, {record['option']} {record['value']:g}"
    )
    if "memory" in record:
        steps, rows = (record["memory"][key] for key in ("steps", "rows"))
        text += f", with a model trained for {steps} steps on {rows} rows of earlier tasks"
    else:
        text += f", with {' '.join(record['points'])}" if record["points"] else ", its own change alone"
    if record["curve"]:
        best = next(each for each in record["curve"] if each["taken"])
        text += f"; on validation {best['mean']:.3f}, unmerged {record['curve'][0]['mean']:.3f}"
    return text
