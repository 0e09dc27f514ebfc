"""What a path that a user gives may name: a run, a point of one, or a folder with weights."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cpt.adapters import is_adapter
from cpt.errors import UserError
from cpt.rundir import Point, RunDir


def is_run(place: Path) -> bool:
    return (place / "recipe.yaml").is_file()


def weights_in(place: Path) -> Path:
    """The folder with the weights: of a point what is shipped (`served`, else `model`), else the place itself."""
    inside = (place / name for name in ("served", "model"))
    return next((each for each in inside if is_adapter(each) or (each / "config.json").is_file()), place)


def whole_point(rundir: RunDir, points: Sequence[Point], name: str | None, warn: Callable[[str], None]) -> Point:
    """The point of that name; without one the last whole point, with a warning where others are damaged.

    Raises:
        UserError: there is none, or it is damaged.
    """
    intact = {point.name: point for point in points if rundir.committed(point)}
    damaged = [point.name for point in rundir.damaged(points)]
    chosen = name or (list(intact)[-1] if intact else None)
    if chosen not in intact:
        available = ", ".join([*intact, *(f"{each} (damaged)" for each in damaged)]) or (
            "none yet: resume the run with `cpt run`"
        )
        what = f"{chosen} is damaged" if chosen in damaged else f"no committed point {chosen or ''}".rstrip()
        raise UserError(f"{rundir.path}: {what}; available: {available}")
    if damaged and name is None:
        warn(
            f"{rundir.path}: damaged: {', '.join(damaged)} (their files are not those that were committed; `cpt run` "
            f"makes them again); using {chosen}, the last intact point"
        )
    return intact[chosen]
