"""Before a run is resumed: damaged files are made again from intact ones, and files that do not belong there are reported."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cpt import metrics_log
from cpt.errors import UserError
from cpt.files import DONE, differing
from cpt.layout import check_strangers
from cpt.records import DuringLine
from cpt.rundir import Point, RunDir


def mend_run(rundir: RunDir, points: Sequence[Point], warn: Callable[[str], None]) -> None:
    """Discard a damaged point and all that was trained from it: they are made again, from the last intact point before it.

    Raises:
        UserError: a file that was not committed could be loaded as a part of a model, or the base has links to weights that
            have changed.
    """
    damaged = rundir.damaged(points)
    if damaged:
        first = damaged[0]
        if rundir.begun():
            check_links(rundir.point(first))
        last_intact = points[first.index - 1].name if first.index else "the model itself"
        is_present = rundir.point(first).exists()
        what = (
            "damaged (its files are not those that were committed)"
            if is_present
            else "missing, though it was committed"
        )
        warn(f"{first.name} is {what}: resuming from {last_intact}")
        rundir.discard(points[first.index :])
    for point in rundir.damaged_evaluations(points):
        warn(f"the evaluation of {point.name} is damaged (not what was written): evaluating it again")
        rundir.discard_evaluation(point)
    rundir.tidy(points)
    sealed = sorted(file.parent for file in rundir.points.rglob(DONE))
    logs = (*metrics_log.mend(rundir.metrics), *metrics_log.mend(rundir.during, DuringLine))
    for line in (*logs, *check_strangers(sealed)):
        warn(line)


def check_links(folder: Path) -> None:
    """Raise UserError where files that a damaged point links to are not those that the run began with."""
    changed = [folder / name for name in differing(folder) if (folder / name).is_symlink()]
    if changed:
        raise UserError(
            f"model.path: {changed[0].readlink()} is not what this run began with, or is gone, and `model.copy: "
            "false` keeps no copy: restore the file, or give another --out to start a new run"
        )


def mend_task(rundir: RunDir, point: Point, names: Sequence[str], warn: Callable[[str], None]) -> None:
    """Inside a task too: the first of its stages (`names`) that is damaged, and those after it, are made again."""
    name = rundir.discard_damaged_stage(point, names)
    if name is not None:
        warn(f"{point.task} {name}: the finished stage is damaged: training it and the later ones again")
