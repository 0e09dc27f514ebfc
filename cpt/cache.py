"""What was computed before and need not be computed again: the answers of an untouched model, and the runs of baselines.

Everything in the cache is found by a hash of all that it depends on, so any difference misses; it may be deleted at any time.
`cpt run --no-cache`, or CPT_NO_CACHE=1 in the environment, leaves it alone.
"""

import os
import stat
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cpt
from cpt import manifest, ranks
from cpt.files import digest, hash_of, hashes_of

if TYPE_CHECKING:
    from cpt.recipe import Recipe

OFF = "CPT_NO_CACHE"
LARGEST = 2 * 2**30  # bytes of all answers in it, and of all baselines; the oldest are deleted first


def folder(name: str) -> Path | None:
    """The folder `name` of the cache; None where it is turned off."""
    from platformdirs import user_cache_path

    return None if os.environ.get(OFF, "") not in ("", "0") else user_cache_path("cpt") / name


@cache
def code_hash() -> str:
    """The hash of cpt's own code."""
    package = Path(cpt.__file__).parent
    return hash_of({str(file.relative_to(package)): digest(file) for file in sorted(package.rglob("*.py"))})


def surroundings(recipe: "Recipe", base: Path) -> dict[str, Any] | None:
    """What numbers depend on besides what is asked or trained: the model's files, code, libraries and machine.

    `base` is the committed folder of the untouched model. None where it cannot be known: of a server that somebody else
    started.
    """
    model, engine = recipe.model.model_dump(mode="json"), recipe.rollouts.model_dump(mode="json")
    hashes = hashes_of(base)
    if engine.get("url") is not None or hashes is None:
        return None
    machine = {key: value for key, value in manifest.hardware().items() if key != "memory_bytes"}
    adapter = None if recipe.adapter is None else recipe.adapter.model_dump(mode="json")
    template = recipe.model.chat_template
    return {
        "model": {
            key: value for key, value in model.items() if key not in ("path", "copy", "revision", "chat_template")
        },
        "files": {name: each for name, each in hashes.items() if name.startswith("model/")},
        "template": None if template is None else digest(Path(template)),
        "adapter": adapter,
        "engine": engine,
        "cpt": [cpt.__version__, code_hash()],
        "versions": manifest.versions(),
        "machine": machine,
        "processes": ranks.world_size(),
    }


def prune(place: Path, largest: int = LARGEST) -> None:
    """Delete the files of `place` that were used least recently, until the others take `largest` bytes at most.

    A baseline that lacks a file is not taken any more, as a damaged one is not.
    """
    files = []
    for file in place.rglob("*"):
        try:
            status = file.stat()
        except OSError:  # another process deletes too
            continue
        if stat.S_ISREG(status.st_mode):
            files.append((status.st_mtime, status.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files, key=lambda each: each[0]):
        if total <= largest:
            return
        file.unlink(missing_ok=True)
        total -= size
