"""Files that appear whole or not at all, and folders sealed with the hash of each file (`DONE`, written last)."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

DONE = "DONE"
HASH_THREADS = 8


def seal(folder: Path) -> None:
    """Write `DONE` with the hash of every file in `folder`, after all of them have reached the disk."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != DONE)
    for file in files:
        sync_file(file)
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        hashes = dict(zip([str(f.relative_to(folder)) for f in files], pool.map(digest, files), strict=True))
    write_json(folder / DONE, hashes)


def is_intact(folder: Path) -> bool:
    """Whether `folder` was sealed and holds the very files it was sealed with."""
    try:
        hashes = json.loads((folder / DONE).read_text())
    except (OSError, ValueError):
        return False
    if not isinstance(hashes, dict) or not hashes:
        return False
    files = [folder / name for name in hashes]
    if not all(file.is_file() for file in files):
        return False
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return list(pool.map(digest, files)) == list(hashes.values())


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def clone(source: Path, target: Path) -> None:
    """A folder of hard links to the files of `source`: no second copy on disk, and both names stay valid."""
    shutil.copytree(source, target, copy_function=os.link)


def replace_folder(target: Path, by: Path) -> None:
    """Move the folder `by` into the place of `target`. Killed in between, `target` is gone: not for what is committed."""
    shutil.rmtree(target)
    by.rename(target)


def sync_file(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(file: Path) -> Iterator[TextIO]:
    """A text stream whose content replaces `file` at the end of the block, or never."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.part")
    with beside.open("w", encoding="utf-8") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def write_whole(file: Path, text: str) -> None:
    with whole_file(file) as stream:
        stream.write(text)


def write_json(file: Path, value: Any) -> None:
    write_whole(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
