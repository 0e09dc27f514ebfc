"""Merge models, run folders or points of them into a new folder. The merging itself is cpt/merging."""

import gc
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from cpt.adapters import CONFIG, base_in_run, named_base
from cpt.errors import UserError, nearest_or_all
from cpt.layout import check_sealed, check_strangers
from cpt.merge_methods import OPTIONS
from cpt.stop import PROMPT, listening

AHEAD = 8 << 20  # bytes that the disk is asked for at a time


def merge(
    models: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    method: str | None = None,
    base: str | Path | None = None,
    into: str | Path | None = None,
    weight: float | Sequence[float] = (),
    fisher: Sequence[str | Path] = (),
    dtype: str | None = None,
    shard_size: int | str = "5GB",
    threads: int | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    **options: float | str | None,
) -> str:
    """Merge models that came from one base into the new folder `out`, tensor by tensor, as `cpt merge` does.

    Args:
        models: model folders, run folders (their last point) or points of runs; config and tokenizer are the first one's.
        out: a new folder; it appears whole or not at all.
        method: linear, wise, ties, dare, slerp, ... (docs/merging.md); none for one adapter by itself.
        base: what the models were trained from, for the methods that work on changes.
        into: read LoRA adapters as the full weights that they make of this model.
        weight: one for each model, or one for all; alone in an average of two models: the first one's share.
        fisher: the diagonal Fisher of each model (safetensors), for the method `fisher`.
        dtype: of the result: float32, bfloat16, float16, float64 (the first model's).
        shard_size: largest file, in bytes or as "500MB".
        threads: how many work at once (one for each core).
        dry_run: check all and plan; write nothing.
        quiet: print warnings alone.
        options: those of the method, e.g. density=0.2.

    Returns:
        The plan in words, as `cpt merge --dry-run` prints it.

    Raises:
        UserError: what cannot be merged, in one line.
        KeyboardInterrupt: interrupted; nothing is kept.
    """
    from cpt.api.arguments import in_a_session, screen_of

    if unknown := sorted({*options} - {*OPTIONS}):
        raise UserError(f"merge: no option {unknown[0]}{nearest_or_all(unknown[0], OPTIONS)}")
    several = [models] if isinstance(models, str | Path) else models
    with in_a_session():
        return merge_folders(
            [Path(each) for each in several],
            Path(out),
            screen_of(quiet, False),
            method=method,
            base=base and Path(base),
            into=into and Path(into),
            weight=[weight] if isinstance(weight, int | float) else list(weight),
            fisher=[Path(each) for each in fisher],
            shard_bytes=bytes_of(shard_size) if isinstance(shard_size, str) else shard_size,
            dry_run=dry_run,
            options=options | {"dtype": dtype, "threads": threads},
        )


def merge_folders(
    places: Sequence[Path],
    out: Path,
    screen,
    *,
    method: str | None,
    base: Path | None,
    into: Path | None,
    weight: Sequence[float],
    fisher: Sequence[Path],
    shard_bytes: int,
    dry_run: bool,
    options: dict[str, float | str | None],
) -> str:
    """Merge, or plan alone; the plan in words. Raises UserError."""
    warnings: list[str] = []
    with screen.progress("checking the models"):  # the files of a run are compared with their hashes
        models = [folder_of(place, warnings.append) for place in places]
        base, into = (None if place is None else folder_of(place, warnings.append) for place in (base, into))
        if method is None:
            method, into = "linear", into or base_of_one(models)
    if not dry_run:
        read_ahead([folder for folder in (*models, base, into) if folder is not None])
    gc.disable()  # a million objects come with torch and stay: to look through them costs .2 s now, and .3 s at the end
    from cpt.merging.merge import carry_out
    from cpt.merging.plan import describe, make_plan
    from cpt.sizes import size

    gc.freeze()
    gc.enable()
    plan = make_plan(method, models, base, weight, out, fishers=fisher, into=into, shard_bytes=shard_bytes, **options)
    for warning in (*warnings, *plan.warnings):
        screen.warn(warning)
    text = describe(plan)
    if dry_run:
        return text
    screen.line(text)
    bar_of = screen.progress("merging", plan.read // 1_000_000, "MB")
    with listening() as stop, stop.within(PROMPT), bar_of as bar:
        carry_out(plan, lambda done: bar.update(done // 1_000_000), stop)
    screen.line(f"{out}: {size(plan.written)} in {len(list(out.glob('*.safetensors')))} file(s)", style="bold")
    return text


def base_of_one(models: Sequence[Path]) -> Path:
    """The base that one adapter by itself is folded into. Raises UserError where there is more or less to merge."""
    if len(models) != 1 or not (models[0] / CONFIG).is_file():
        raise UserError(
            "--method: choose how the models are merged (linear, ties, ...); only a single adapter needs none"
        )
    base = base_in_run(models[0])
    if base is not None:
        return base
    from cpt.models import find
    from cpt.recipe import Model

    return find(Model(path=named_base(models[0])))


def read_ahead(folders: Sequence[Path]) -> None:
    """Let the disk begin on all files at once while torch is imported, as far as a quarter of free memory goes."""
    files = [file for folder in folders for file in folder.glob("*.safetensors")]
    each = psutil.virtual_memory().available // 4 // max(1, len(files))

    def ask(file: Path) -> None:
        with suppress(OSError), file.open("rb") as stream:  # who reads it will say so
            for start in range(0, min(each, file.stat().st_size), AHEAD):
                os.posix_fadvise(stream.fileno(), start, AHEAD, os.POSIX_FADV_WILLNEED)

    for file in files:
        threading.Thread(target=ask, args=(file,), daemon=True).start()


def bytes_of(text: str) -> int:
    """`500MB` -> 500,000,000. Raises UserError."""
    units = {"GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}
    unit = next((unit for unit in units if text.upper().endswith(unit)), "")
    try:
        count = int(float(text[: len(text) - len(unit)]) * units[unit]) if unit else 0
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise UserError(f"--shard-size: {text}: give a size above 0 with its unit, e.g. 5GB or 500MB")
    return count


def folder_of(place: Path, warn: Callable[[str], None]) -> Path:
    """The folder with the weights: of a run (its last whole point), of a point (served, else model), or the place itself."""
    from cpt.places import is_run, weights_in, whole_point
    from cpt.recipe import load
    from cpt.rundir import RunDir, points_of

    if is_run(place):
        rundir = RunDir(place)
        point = whole_point(rundir, points_of(load(str(place / "recipe.yaml"))), None, warn)
        warnings, folder = check_strangers([rundir.point(point)]), rundir.served(point)
    else:
        folder = weights_in(place)
        if not folder.is_dir():
            raise UserError(
                f"{place}: no such folder; give a model folder, a run folder or a point of one (runs/NAME/points/01-TASK)"
            )
        warnings = check_sealed(place)
    for line in warnings:
        warn(line)
    return folder
