"""manifest.json: what a reader needs to believe a run: versions, seeds, hardware, data hashes, and the code's commit."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import cpt
from cpt import ranks
from cpt.errors import UserError
from cpt.files import write_sealed
from cpt.records import Git, Hardware, Manifest, wrong
from cpt.rundir import RunDir, points_of

if TYPE_CHECKING:
    from cpt.data.stream import Stream
    from cpt.recipe import Recipe

Hashes = dict[str, dict[str, str]]  # {module:name: {file: SHA-256}}
Code = dict[str, Hashes]  # verifiers, user_code

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "vllm",
    "deepspeed",
    "reasoning-gym",
    "lm-eval",
)


def write(rundir: RunDir, recipe: "Recipe", stream: "Stream", code: Code) -> None:
    """Write the manifest of a new run; a resumed one keeps the manifest that its first row was made with.

    `code` has the files of the user's own code: of verifiers (`Scorers.keep`), and of kinds and metrics.

    Raises:
        UserError: as `check` does.
    """
    data = stream.manifest()
    if check(rundir, recipe, data, code, ranks.world_size()):
        return
    write_sealed(
        rundir.path / "manifest.json",
        {
            "cpt": cpt.__version__,
            "versions": versions(),
            "seed": recipe.seed,
            "model_seed": recipe.model.seed,
            "data_seed": recipe.data.seed,
            "hardware": hardware(),
            "world_size": ranks.world_size(),
            "data": data,
            **code,
            "git": git(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        },
    )


def check(rundir: RunDir, recipe: "Recipe", data: dict, code: Code, processes: int) -> bool:
    """Whether a run is resumed here; nothing is written. `data` are the hashes of the rows (`Stream.manifest`).

    Raises:
        UserError: the rows, the user's own code, or the number of processes are not those that the run began with.
    """
    file = rundir.path / "manifest.json"
    if not file.exists() or not rundir.begun():
        return False
    stored = read(file)
    began_with = stored.get("world_size", processes)
    if began_with != processes and not all(rundir.committed(point) for point in points_of(recipe)):
        raise UserError(
            f"{rundir.path}: this run began with {began_with} process(es), and its batches would be different with "
            f"{processes}: start {began_with}, or give another --out to start a new run"
        )
    changed = [name for name in data if data[name] != stored["data"].get(name)]
    if changed:
        raise UserError(
            f"{rundir.path}: the rows of {', '.join(changed)} are not those that this run began with (hashes in "
            "manifest.json): restore them, or give another --out to start a new run"
        )
    for name, what in (("verifiers", "verifier"), ("user_code", "code of")):
        check_code(rundir, what, stored.get(name), code[name])
    return True


def check_code(rundir: RunDir, what: str, before: Hashes | None, now: Hashes) -> None:
    """Raises UserError where a run would be resumed with other code. `before` is None in runs older than this check."""
    for name, files in now.items() if before is not None else ():
        known = before.get(name) or {}
        changed = sorted(file for file in {*files, *known} if files.get(file) != known.get(file))
        if changed:
            raise UserError(
                f"{rundir.path}: the {what} {name} has changed since this run began ({', '.join(changed)}; hashes in "
                "manifest.json), so scores could not be compared: restore it, or give another --out to start a new run"
            )


def add(rundir: RunDir, key: str, value: dict) -> None:
    """Put what is known only after the rows were looked at into the manifest of a run that begins."""
    file = rundir.path / "manifest.json"
    stored = read(file)
    if key not in stored:
        stored.pop("sha256", None)
        write_sealed(file, stored | {key: value})


def read(file: Path) -> Manifest:
    """The manifest that the run began with. Raises UserError where it is damaged."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        problem = wrong(stored, Manifest)
    except (ValueError, RecursionError) as error:
        problem = f"not JSON ({error})"
    if problem:
        raise UserError(
            f"{file}: is damaged: {problem}: restore it from a copy, or delete it: it is then written again from the "
            "present rows"
        )
    return stored


def versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> Hardware:
    import psutil
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = psutil.virtual_memory().total
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "gpus": gpus,
        "threads": torch.get_num_threads(),
    }


def git() -> Git:
    """The commit of the code that runs, and the diff against it; nulls outside a checkout."""
    here = Path(__file__).resolve().parent

    def ask(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    diff = ask("diff", "HEAD", "--", ".") if commit else None
    return {"commit": commit.strip() if commit else None, "dirty": bool(diff) if commit else None, "diff": diff}
