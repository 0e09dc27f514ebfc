"""Open a run directory to write: one writer, and the recipe that the run began with (only some of its keys may change)."""

import itertools
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cpt import gate_history
from cpt.disk import FULL, no_room_message, writing
from cpt.errors import CannotWrite, UserError
from cpt.files import whole_file
from cpt.layout import check_kinds
from cpt.rundir import RunDir, identity_of

if TYPE_CHECKING:
    from cpt.recipe import Recipe


@contextmanager
def open_run(path: Path, recipe: "Recipe") -> Iterator[RunDir]:
    """The run directory for writing: locked, new or a part of the same run.

    Raises:
        UserError: it cannot be written, holds another recipe (says what differs), or another process is writing it.
    """
    check_kinds(path)
    lock, holder = FileLock(path / ".lock"), path / ".lock.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with holder.open("a"):
            pass
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{path}: {_who(holder)} is writing this run; wait for it or give another --out") from None
    except OSError as error:
        if error.errno in FULL:
            raise CannotWrite(no_room_message(holder, error.errno)) from error
        raise UserError(
            f"{error.filename or path}: the run directory cannot be written ({error.strerror}): change the "
            "permissions, or choose another with --out"
        ) from error
    try:
        with writing(path):
            holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            rundir = RunDir(path)
            rundir.opened = identity_of(path)
            _take(rundir, recipe)
            rundir.points.mkdir(exist_ok=True)
        yield rundir
    finally:
        lock.release()


def _who(holder: Path) -> str:
    """The process that the lock's file names; a file that says nothing we understand is of one that has just begun."""
    try:
        process = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {process['pid']:d} on {process['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def check_place(path: Path, recipe: "Recipe") -> bool:
    """Whether what is in `path` is to be taken over: a run of another recipe in which nothing was evaluated or trained yet
    (its recipe was refused then). Nothing is written.

    Raises:
        UserError: no run of the recipe can be started or resumed there.
    """
    check_kinds(path)
    existing = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--out: {path} cannot be written; choose another run directory")
    rundir = RunDir(path)
    if rundir.recipe.exists():
        theirs = _stored_recipe(rundir.recipe)
        differing = different_keys(theirs, recipe.model_dump(mode="json"))
        differences = [
            each
            for each in differing
            if not each.startswith(("evaluation.gates", "description", "alarms", "baselines", "tracking"))
        ]
        if differences and rundir.begun():
            shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
            raise UserError(
                f"--out: {path} holds a run of another recipe: {shown} (there: {rundir.recipe.name}); give another --out to "
                "start a new run"
            )
        return bool(differences)
    if rundir.begun():
        raise UserError(
            f"{rundir.recipe}: is missing, and the run in this folder was begun with it: restore it "
            "(`resolved_recipe` of results.json is the same), or give another --out to start a new run"
        )
    if existing == path and any(child.name not in (".lock", ".lock.json") for child in path.iterdir()):
        raise UserError(f"--out: {path} is not empty and holds no run (no recipe.yaml); give a new folder with --out")
    return False


def _take(rundir: RunDir, recipe: "Recipe") -> None:
    """Write the resolved recipe, over the one that is there (gates, alarms and the description may change)."""
    if check_place(rundir.path, recipe):
        shutil.rmtree(rundir.points, ignore_errors=True)  # the base, made as the other recipe said
    file, mine = rundir.recipe, recipe.model_dump(mode="json")
    if file.exists():
        points = len(list(rundir.evaluations.glob("*.cost.json")))
        gate_history.keep(rundir.path, points, _stored_recipe(file), mine)
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    with whole_file(file) as stream:
        yaml.dump(mine, stream)


def _stored_recipe(file: Path) -> dict:
    try:
        theirs = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (YAMLError, ValueError):
        theirs = None
    if not isinstance(theirs, dict):
        raise UserError(
            f"{file}: is damaged (not the recipe that this run began with): restore it from a copy, or give another "
            "--out to start a new run"
        )
    return theirs


def different_keys(theirs, mine, key: str = "") -> list[str]:
    """Dotted keys in which two plain structures differ, as `seed: 0 there, 1 here`. Of streams first the tasks' names."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        names = dict.fromkeys([*theirs, *mine])
        return [d for n in names for d in different_keys(theirs.get(n), mine.get(n), f"{key}.{n}" if key else str(n))]
    if isinstance(theirs, list) and isinstance(mine, list) and (theirs or mine):
        theirs_named, mine_named = (
            [each.get("task") if isinstance(each, dict) else None for each in side] for side in (theirs, mine)
        )
        if theirs_named != mine_named and all([*theirs_named, *mine_named]):
            return [f"{key}: {', '.join(theirs_named)} there, {', '.join(mine_named)} here"]
        pairs = enumerate(itertools.zip_longest(theirs, mine))
        return [d for i, pair in pairs for d in different_keys(*pair, f"{key}.{i}")]
    return [] if theirs == mine else [f"{key}: {' there, '.join(_short(theirs, mine))} here"]


def _short(*values) -> list[str]:
    """Each as text of at most 60 characters, from a little before the first in which they differ."""
    texts = [json.dumps(value, default=str, ensure_ascii=False) for value in values]
    alike = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
    start = max(0, alike - 20) if max(map(len, texts)) > 60 else 0
    cut = ["..." * bool(start) + text[start:] for text in texts]
    return [text if len(text) <= 60 else text[:57] + "..." for text in cut]
