"""The run directory: what is committed stays, whatever happens to the process. Format: docs/run-directory.md.

A point (`points/01-reverse`) is built beside its place, hashed file by file into `DONE`, synced, and renamed. Inside a
point that is still being made (`points/.01-reverse.work`) each finished stage is committed the same way, so a kill never
repeats one. One process writes: the lock is the operating system's, so it ends with its holder, even one killed by -9.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpt import metrics_log
from cpt.disk import writing
from cpt.errors import CannotWrite
from cpt.files import DAMAGE, DONE, clone, digest, is_intact, seal, sync_folder, write_json, write_whole
from cpt.json_lines import read_lines
from cpt.records import Answer, DuringLine, EvaluationCost, Spent, StageRecord, wrong

if TYPE_CHECKING:
    from cpt.recipe import Recipe


@dataclass(frozen=True)
class Point:
    """A place in the stream: `00-base` (task None), then one after each task."""

    index: int
    task: str | None

    @property
    def name(self) -> str:
        return f"{self.index:02d}-{self.task or 'base'}"


def points_of(recipe: "Recipe") -> list[Point]:
    return [Point(0, None), *(Point(i, task.task) for i, task in enumerate(recipe.stream, start=1))]


class RunDir:
    """Paths, commits and the log of one run. Make it with `open_run` (to write) or directly (to read)."""

    def __init__(self, path: Path):
        self.path = path
        self.points = path / "points"
        self.metrics = path / "metrics.jsonl"
        self.during = path / "during.jsonl"
        self.evaluations = path / "evaluations"
        self.recipe = path / "recipe.yaml"
        self.results = path / "results.json"
        self.log = path / "run.log"
        self.opened: tuple[int, int] | None = None  # which folder it was when it was opened for writing
        self._verified: set[Path] = set()

    # -- points ------------------------------------------------------------------------------------------------------

    def point(self, point: Point) -> Path:
        return self.points / point.name

    def model(self, point: Point) -> Path:
        """The weights that training continues from."""
        return self.point(point) / "model"

    def served(self, point: Point) -> Path:
        """The weights that are evaluated and shipped: what a strategy put in `served`, else the model."""
        served = self.point(point) / "served"
        return served if served.is_dir() else self.model(point)

    def work(self, point: Point) -> Path:
        return self.points / f".{point.name}.work"

    def stage(self, point: Point, name: str) -> Path:
        return self.work(point) / name

    def committed(self, point: Point) -> bool:
        """Whether the point is there and every file has the hash it was committed with."""
        return self._intact(self.point(point))

    def stage_committed(self, point: Point, name: str) -> bool:
        return self._intact(self.stage(point, name))

    def _intact(self, folder: Path) -> bool:
        if folder not in self._verified and is_intact(folder):
            self._verified.add(folder)
        return folder in self._verified

    def damaged(self, points: Sequence[Point]) -> list[Point]:
        """The points that are not what was committed, and those gone from under what was made with them."""
        return [point for point in points if not self.committed(point) and self._was_there(point, points)]

    def _was_there(self, point: Point, points: Sequence[Point]) -> bool:
        later = points[point.index + 1 :]
        made = [self.point(point), *(self.evaluation(each) for each in (point, *later))]
        made += [place(each) for each in later for place in (self.point, self.work)]
        return any(path.exists() for path in made)

    def discard(self, points: Iterable[Point]) -> None:
        """Remove points, what was begun on them, and their evaluations (they will be made again)."""
        for point in points:
            for folder in (self.point(point), self.work(point)):
                shutil.rmtree(folder, ignore_errors=True)
                self._verified = {seen for seen in self._verified if not seen.is_relative_to(folder)}
            self.discard_evaluation(point)

    def move(self, point: Point, to: Point) -> None:
        """Keep a committed point under another name. Its evaluation goes first: killed between, that is made again."""
        self.check_there()
        for old, new in (
            (self.evaluation(point), self.evaluation(to)),
            (self._cost(point), self._cost(to)),
            (self.evaluation(point).with_suffix(".lm_eval"), self.evaluation(to).with_suffix(".lm_eval")),
            (self.point(point), self.point(to)),
        ):
            if old.exists():
                shutil.rmtree(new) if new.is_dir() else new.unlink(missing_ok=True)
                old.rename(new)
        sync_folder(self.points)
        gone = self.point(point)
        self._verified = {
            each for each in self._verified if not each.is_relative_to(gone) and each != self.evaluation(point)
        }

    def tidy(self, points: Iterable[Point]) -> None:
        """Remove what a kill between a point's commit and the end of it left behind."""
        for point in points:
            if self.committed(point):
                shutil.rmtree(self.work(point), ignore_errors=True)

    def commit_stage(self, point: Point, name: str, record: StageRecord) -> None:
        """Seal a finished stage inside its point's work folder."""
        self.check_there()
        folder = self.stage(point, name)
        shutil.rmtree(folder / "trainer", ignore_errors=True)
        write_json(folder / "stage.json", record)
        seal(folder)

    def discard_damaged_stage(self, point: Point, names: Sequence[str]) -> str | None:
        """Remove the first of a point's stages that was committed and is not whole, and those after it; returns its name."""
        begun = [number for number, name in enumerate(names) if self.stage(point, name).exists()]
        for number, name in enumerate(names):
            done = (self.stage(point, name) / DONE).exists() or any(later > number for later in begun)
            if done and not self.stage_committed(point, name):
                for each in names[number:]:
                    shutil.rmtree(self.stage(point, each), ignore_errors=True)
                    self._verified.discard(self.stage(point, each))
                return name
        return None

    def stage_record(self, point: Point, name: str) -> StageRecord:
        return json.loads((self.stage(point, name) / "stage.json").read_text())

    def commit(
        self,
        point: Point,
        model: Path,
        stages: list[StageRecord],
        states: Path | None = None,
        served: Path | None = None,
    ) -> None:
        """All of the point or none of it: its models, the records of its stages, and the folder of the strategies' states."""
        self.check_there()
        beside = self.points / f".{point.name}.commit"
        with writing(beside):
            self._commit(point, beside, model, stages, states, served)

    def _commit(
        self,
        point: Point,
        beside: Path,
        model: Path,
        stages: list[StageRecord],
        states: Path | None,
        served: Path | None,
    ) -> None:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        clone(model, beside / "model")
        if served is not None:
            clone(served, beside / "served")
        write_json(beside / "stages.json", stages)
        if states is not None and states.is_dir():
            clone(states, beside / "strategies")
        seal(beside)
        shutil.rmtree(self.point(point), ignore_errors=True)
        beside.rename(self.point(point))
        sync_folder(self.points)
        shutil.rmtree(self.work(point), ignore_errors=True)

    def stages(self, point: Point) -> list[StageRecord]:
        """The records of the committed stages of a committed point."""
        return json.loads((self.point(point) / "stages.json").read_text())

    def states(self, point: Point) -> Path:
        """What the strategies knew at the point, in a folder for each."""
        return self.point(point) / "strategies"

    def link_final(self, point: Point) -> None:
        """`final`: a relative link to the last point's served model."""
        final, beside = self.path / "final", self.path / ".final"
        with writing(final):
            beside.unlink(missing_ok=True)
            beside.symlink_to(os.path.relpath(self.served(point), self.path))
            beside.replace(final)

    # -- evaluations and metrics -------------------------------------------------------------------------------------

    def evaluation(self, point: Point) -> Path:
        return self.evaluations / f"{point.name}.jsonl"

    def _cost(self, point: Point) -> Path:
        return self.evaluations / f"{point.name}.cost.json"

    def has_row(self, point: Point) -> bool:
        """Whether the point's evaluation is there with the hash that its cost file was written with."""
        file = self.evaluation(point)
        if file not in self._verified and file.is_file() and self._sealed_hash(point) == digest(file):
            self._verified.add(file)
        return file in self._verified

    def _sealed_hash(self, point: Point) -> str | None:
        """The hash that the cost file holds; None where the file is damaged itself."""
        try:
            cost = json.loads(self._cost(point).read_text(encoding="utf-8"))
        except DAMAGE:
            return None
        return None if wrong(cost, EvaluationCost) else cost["sha256"]

    def damaged_evaluations(self, points: Iterable[Point]) -> list[Point]:
        """The points whose evaluation is there but is not what was written."""
        return [point for point in points if self.evaluation(point).exists() and not self.has_row(point)]

    def discard_evaluation(self, point: Point) -> None:
        self._verified.discard(self.evaluation(point))
        for file in (self.evaluation(point), self._cost(point)):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.evaluation(point).with_suffix(".lm_eval"), ignore_errors=True)

    def write_evaluation(self, point: Point, lines: list[Answer], cost: Spent) -> None:
        """All evaluated answers of a point, sealed by their hash in the cost file, which is written first."""
        self.check_there()
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_json(self._cost(point), cost | {"sha256": hashlib.sha256(text.encode()).hexdigest()})
        write_whole(self.evaluation(point), text)

    def read_evaluation(self, point: Point) -> tuple[list[Answer], Spent]:
        lines = self.evaluation(point).read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 ends no line
        cost = json.loads(self._cost(point).read_text(encoding="utf-8"))
        return [json.loads(line) for line in lines if line], {k: v for k, v in cost.items() if k != "sha256"}

    def answers_hash(self, point: Point) -> str:
        """The hash that a point's answers were written with."""
        return json.loads(self._cost(point).read_text(encoding="utf-8"))["sha256"]

    def begun(self) -> bool:
        """Whether anything was evaluated or trained."""
        other_points = [folder for folder in self.points.glob("*") if Point(0, None).name not in folder.name]
        return self.metrics.exists() or any(self.evaluations.glob("*.jsonl")) or bool(other_points)

    def append_metrics(self, line: dict) -> None:
        self.check_there()
        metrics_log.append(self.metrics, line)

    def forget_metrics(self, keep) -> None:
        """Drop the lines that `keep(line)` refuses: those logged after the place a run resumes from."""
        metrics_log.forget(self.metrics, keep)

    def append_during(self, line: DuringLine) -> None:
        """Add an evaluation within a stage."""
        self.check_there()
        metrics_log.append(self.during, line)

    def forget_during(self, keep) -> None:
        metrics_log.forget(self.during, keep, DuringLine)

    def read_during(self) -> list[DuringLine]:
        """The lines that are whole (`mend_run` puts damaged ones aside)."""
        return read_lines(self.during.read_bytes(), DuringLine)[0] if self.during.exists() else []

    def check_there(self) -> None:
        """Raise CannotWrite where the run directory was moved or deleted since it was opened for writing."""
        if self.opened is not None and identity_of(self.path) != self.opened:
            raise CannotWrite(f"{self.path}: the run directory was moved or deleted while the run was writing to it")


def identity_of(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one of the same name; None where it is not there."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


# -- opening -------------------------------------------------------------------------------------------------------------
