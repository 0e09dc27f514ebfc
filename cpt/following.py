"""What follows a run while it lasts, on rank 0: trackers, and the report.

Steps are counted over the whole stream and never go back: what a resumed run trains again is not sent again. `tracking.json`
keeps each tracker's id and the last step that was sent.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpt.errors import UserError
from cpt.files import write_json
from cpt.rundir import RunDir, points_of
from cpt.trackers import TRACKERS, Tracker

log = logging.getLogger(__name__)
BETWEEN_REPORTS = 60.0  # seconds
PLACES = ("task", "stage", "step", "max_steps")


class Following:
    """Made on every rank, used on rank 0.

    Args:
        rundir, recipe: the run's.
        rewrite: makes the report again from the run's files.
        warn: shows a warning; a tracker that fails is warned of once and left out, and the run continues.
    """

    def __init__(self, rundir: RunDir, recipe: Any, rewrite: Callable[[], None], warn: Callable[[str], None]):
        self.rundir, self.recipe, self.rewrite, self.warn = rundir, recipe, rewrite, warn
        self.file: Path = rundir.path / "tracking.json"
        self.trackers: dict[str, Tracker] | None = None  # opened at the first line
        self.last = 0
        self.reported = time.monotonic()

    # -- what happens ----------------------------------------------------------------------------------------------------

    def line(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl was written."""
        if self.recipe.tracking:
            self.open()
            task, stage = line["task"], line["stage"]
            step = self.offset(task, stage) + line["step"]
            if step > self.last:
                numbers = {name: value for name, value in line.items() if name not in PLACES and is_finite(value)}
                number = [each.task for each in self.recipe.stream].index(task) + 1
                values = {f"train/{name}": value for name, value in numbers.items()}
                values |= {f"{task}/{stage}/{name}": value for name, value in numbers.items()}
                values |= {"train/task": number, "train/stage": int(stage.partition("-")[0])}
                self.each(lambda tracker: tracker.log(values, step))
                self.sent(step)
        if time.monotonic() - self.reported >= BETWEEN_REPORTS:
            self.report()

    def row(self, results: dict[str, Any]) -> None:
        """A point was evaluated; `results` is the content of results.json."""
        self.report()
        if not self.recipe.tracking:
            return
        self.open()
        points = [Path(each).name for each in results["points"]]
        step = max(self.last, sum(record["steps"] for record in results["stages"]))
        accuracy = dict(zip(results["tasks"], results["accuracy"][-1], strict=True))
        held_out = {f"held_out/{name}": values[-1] for name, values in results["held_out"].items()}
        values = {f"accuracy/{task}": value for task, value in accuracy.items()} | held_out
        table = [
            [point, *row, *(each[place] for each in results["held_out"].values())]
            for place, (point, row) in enumerate(zip(points, results["accuracy"], strict=True))
        ]
        columns = ["after", *results["tasks"], *results["held_out"]]
        self.each(lambda tracker: tracker.log(values, step))
        self.each(lambda tracker: tracker.table("matrix", columns, table, step))
        self.sent(step)

    def finished(self, results: dict[str, Any], report: Path) -> None:
        """The run is complete, and its report written."""
        if not self.recipe.tracking:
            return
        state = self.state()
        if state.get("finished"):
            return
        self.open()
        values = {f"metrics/{name}": value for name, value in results["metrics"].items() if is_finite(value)}
        self.each(lambda tracker: tracker.log(values, self.last))
        self.each(lambda tracker: tracker.artifact(report))
        write_json(self.file, self.state() | {"finished": True})

    def close(self) -> None:
        if self.trackers:
            self.each(lambda tracker: tracker.end())
        self.trackers = None

    # -- how -------------------------------------------------------------------------------------------------------------

    def report(self) -> None:
        """Make the report again, where there is anything to report."""
        self.reported = time.monotonic()
        if self.rundir.results.exists():
            try:
                self.rewrite()
            except UserError as error:  # the end of the run says it
                log.info("the report was not made again: %s", error)

    def open(self) -> None:
        if self.trackers is not None:
            return
        state, self.trackers = self.state(), {}
        self.last = state["last_step"]
        config = {"recipe": self.recipe.name, "seed": self.recipe.seed, "model": self.recipe.model.path}
        config |= {"tasks": ", ".join(task.task for task in self.recipe.stream), "folder": str(self.rundir.path)}
        project, name = self.recipe.tracking_project, self.rundir.path.absolute().name
        for kind in self.recipe.tracking:
            with self.surviving(kind):
                self.trackers[kind] = TRACKERS[kind](
                    self.rundir.path / "tracking", project, name, state["ids"].get(kind), config
                )
        self.sent(self.last)

    def state(self) -> dict[str, Any]:
        try:
            return {"ids": {}, "last_step": 0} | json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"ids": {}, "last_step": 0}

    def sent(self, step: int) -> None:
        self.last = step
        ids = self.state()["ids"] | {kind: tracker.id for kind, tracker in (self.trackers or {}).items()}
        write_json(self.file, self.state() | {"ids": ids, "last_step": step})

    def each(self, call: Callable[[Tracker], None]) -> None:
        for kind, tracker in list((self.trackers or {}).items()):
            with self.surviving(kind):
                call(tracker)

    def surviving(self, kind: str) -> "Surviving":
        return Surviving(self, kind)

    def offset(self, task: str, stage: str) -> int:
        """Optimiser steps of the stream before this stage, those of attempts that were set aside among them."""
        points = points_of(self.recipe)
        number = [point.task for point in points].index(task)
        labels = [f"{i}-{each.label}" for i, each in enumerate(self.recipe.stream[number - 1].stages)]
        records = [record for point in points[1:number] for record in self.rundir.stages(point)]
        for point in points[1 : number + 1]:
            for file in self.rundir.points.glob(f"{point.name}.attempt-*/stages.json"):
                records += json.loads(file.read_text(encoding="utf-8"))
        names = labels[: int(stage.partition("-")[0])]
        records += [self.rundir.stage_record(points[number], name) for name in names]
        return sum(record["steps"] for record in records)


class Surviving:
    """What a tracker raises in this block is warned of, and the tracker left out: a run never ends by it."""

    def __init__(self, following: Following, kind: str):
        self.following, self.kind = following, kind

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        if not isinstance(error, Exception):
            return False
        log.info("tracking: %s failed", self.kind, exc_info=error)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.following.warn(f"tracking: {self.kind} failed and is left out from here on: {first}")
        self.following.trackers.pop(self.kind, None)
        return True


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
