"""Files that appear whole or not at all, and folders sealed with the hash of each file (`DONE`, written last)."""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from cpt.disk import remove, writing
from cpt.stop import current

DONE = "DONE"
HASH_THREADS = 8
# What reading damaged JSON raises. A file that may not be read, or a disk that fails, is no damage: what is whole stays.
DAMAGE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, RecursionError)
FICLONE = 0x40049409  # ioctl_ficlone(2)


def seal(folder: Path) -> None:
    """Write `DONE` with the hash of every file in `folder`, after all of them have reached the disk."""
    with writing(folder):
        _seal(folder)


def _seal(folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != DONE)
    for file in files:
        sync_file(file)
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        hashes = dict(zip([str(f.relative_to(folder)) for f in files], pool.map(digest, files), strict=True))
    write_json(folder / DONE, hashes)


def is_intact(folder: Path) -> bool:
    """Whether `folder` was sealed and holds the very files it was sealed with."""
    hashes = hashes_of(folder)
    return bool(hashes) and all((folder / name).is_file() for name in hashes) and not differing(folder)


def differing(folder: Path) -> list[str]:
    """The names of the files of a sealed folder that are gone, or are not what was sealed."""
    hashes = hashes_of(folder) or {}
    present = [name for name in hashes if (folder / name).is_file()]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        digests = dict(zip(present, pool.map(digest, [folder / name for name in present]), strict=True))
    return [name for name, sealed in hashes.items() if digests.get(name) != sealed]


def copy_file(source: str | Path, target: str | Path) -> None:
    """A copy. Where the file system can (btrfs, XFS, ...) it shares the blocks of `source` until one of the two is changed,
    and takes neither room nor time."""
    if sys.platform == "linux":
        with open(source, "rb") as old, open(target, "wb") as new:
            try:
                fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
                return
            except OSError:  # another file system, or two of them
                pass
    shutil.copyfile(source, target)


def hashes_of(folder: Path) -> dict[str, str] | None:
    """The hash of each file that `folder` was sealed with; None where it was not, or the seal is damaged."""
    try:
        hashes = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except DAMAGE:
        return None
    return hashes if isinstance(hashes, dict) else None


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def clone(source: Path, target: Path) -> None:
    """A folder of hard links to the files of `source`: no second copy on disk, and both names stay valid."""
    with writing(target):
        target.mkdir()
        for place in sorted(source.rglob("*")):
            beside = target / place.relative_to(source)
            if place.is_symlink():
                beside.symlink_to(place.readlink())
            elif place.is_dir():
                beside.mkdir()
            else:
                os.link(place, beside)


def copy_folder(source: Path, target: Path) -> None:
    """A copy of its own of all files of `source`."""
    with writing(target, sum(file.stat().st_size for file in source.rglob("*"))):
        shutil.copytree(source, target, copy_function=copy_file)


def apply_umask(folder: Path) -> None:
    """Give the files in `folder` the rights that the umask gave the folder: safetensors writes 0600 whatever it is."""
    for file in folder.iterdir():
        if file.is_file() and not file.is_symlink():
            file.chmod(folder.stat().st_mode & 0o666)


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
def whole_file(file: Path, size: int | None = None) -> Iterator[TextIO]:
    """A text stream whose content (`size` bytes, where that is known) replaces `file` at the end of the block, or never."""
    beside = file.with_name(f".{file.name}.part")
    with writing(file, size), current().removing(partial(remove, beside)):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("w", encoding="utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(file)
        except BaseException:
            remove(beside)
            raise


def write_whole(file: Path, text: str) -> None:
    with whole_file(file, len(text.encode())) as stream:
        stream.write(text)


def write_json(file: Path, value: Any) -> None:
    write_whole(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_sealed(file: Path, content: dict[str, Any]) -> None:
    """JSON with the hash of itself, for what is read back and stands in no sealed folder."""
    write_json(file, {"sha256": hash_of(content)} | content)


def read_sealed(file: Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None where it is not there. Raises ValueError where it is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("sha256") == hash_of(content):
            return content
    except FileNotFoundError:
        return None
    except (*DAMAGE, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{file.name} is damaged") from error
    raise ValueError(f"{file.name} is damaged")


def seal_holds(content: dict[str, Any]) -> bool:
    """Whether JSON that `write_sealed` wrote is as it was written; of older files without a hash nothing is known."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return content.get("sha256", hash_of(rest)) == hash_of(rest)


def hash_of(content: dict[str, Any]) -> str:
    """The SHA-256 of JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
