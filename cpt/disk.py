"""What keeps a file from being written, for the user: which file, why, how much it needs and how much room there is."""

import errno
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from cpt.errors import CannotWrite, Interrupted, UserError
from cpt.sizes import size

NO_INODES = -1
REASONS = {  # why, and what to do
    NO_INODES: ("the disk has no room for one more file (its inodes are used up)", "delete some files"),
    errno.ENOSPC: ("the disk is full", "make room"),
    errno.EDQUOT: ("the disk quota is used up", "make room, or have the quota raised"),
    errno.EFBIG: ("files of this size are not allowed here", "raise the limit (ulimit -f), or use another file system"),
    errno.EROFS: ("the file system is read-only", "mount it for writing"),
    errno.EIO: ("the disk failed (input/output error)", "check the disk"),
    errno.EACCES: ("you have no permission to write there", "change the permissions"),
    errno.EPERM: ("you have no permission to write there", "change the permissions"),
    errno.EMFILE: ("this process has too many files open", "raise the limit (ulimit -n)"),
    errno.ENFILE: ("the machine has too many files open", "end other processes"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "use shorter names"),
    errno.ENOENT: (
        "its folder is gone",
        "restore it, and do not move or delete folders of a run that is being written",
    ),
    errno.ENOTDIR: ("a file is where its folder should be", "move it away"),
    errno.EEXIST: ("something else has its name", "move it away"),
    errno.EISDIR: ("a folder has its name", "move it away"),
    errno.ENOTEMPTY: ("a folder that is not empty has its name", "move it away"),
    errno.EMLINK: ("the file system allows no more links to one file", "use another file system"),
    errno.ESTALE: ("the network file system lost it", "mount it again"),
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # what only writing meets
NO_NUMBER = (
    "PytorchStreamWriter failed",
    "open file failed",
    "iostream error",
    "file write failed",
    "unexpected pos",
)  # torch's words
ALMOST_FULL = 2**20  # bytes
Bytes = int | Callable[[], int] | None


@contextmanager
def writing(place: Path, needed: Bytes = None, undo: Callable[[], None] | None = None) -> Iterator[None]:
    """Around what writes to `place`, a file or a folder: what the system refuses becomes one line for the user.

    `needed` is how many bytes are to be written, where that is known. `undo` removes what was begun; without it a place that
    was not there before is removed.

    Raises:
        CannotWrite: the system refuses, and says why.
    """
    if undo is None:
        undo = (lambda: None) if os.path.lexists(place) else partial(remove, place)
    try:
        yield
    except (CannotWrite, Interrupted, UserError):
        raise
    except Exception as error:
        refused = refusal(error, place)
        if refused is None:
            raise
        file, number = refused
        number = closer(number, file)
        undo()
        raise CannotWrite(no_room_message(file, number, needed, str(error))) from error


def refusal(error: BaseException, place: Path) -> tuple[Path, int | None] | None:
    """(the file that could not be written, the system's number of the reason); None where the error is another one."""
    for each, is_cause in chain(error):
        number = number_of(each)
        if number is None and not any(text in str(each) for text in NO_NUMBER):
            continue
        if number is not None and number not in FULL and not is_cause:
            continue
        named = [Path(name) for name in names_of(each)]
        inside = [name for name in named if name.is_relative_to(place)]
        beside = any(place.parent in (name, name.parent) for name in named)
        file = inside[-1] if inside else newest(place)
        if type(each).__name__ == "SafetensorError" and file.suffix != ".safetensors":
            file = file.parent / "*.safetensors"  # it removes what it could not finish
        if number == errno.ENOENT and file.parent.is_dir():
            continue  # a file that should be read is missing
        if inside or beside or not named or number in FULL:
            return file, number
    return None


def no_room(error: BaseException) -> str | None:
    """The line for an error that only writing meets, where no block of `writing` was around it; else None."""
    for each, _ in chain(error):
        if (number := number_of(each)) in FULL:
            names = names_of(each)
            return no_room_message(Path(names[-1]), number) if names else f"{REASONS[number][0]}: {REASONS[number][1]}"
    return None


def chain(error: BaseException | None) -> Iterator[tuple[BaseException, bool]]:
    """The error and those that led to it, and whether each is the cause or only came before."""
    is_cause = True
    while error is not None:
        yield error, is_cause
        is_cause = is_cause and error.__cause__ is not None
        error = error.__cause__ or error.__context__


def number_of(error: BaseException) -> int | None:
    """The system's number; in the errors of libraries it stands in their text (safetensors' come from Rust)."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if "No space left on device" in str(error):
        return errno.ENOSPC
    match = re.search(r"\bOs \{ code: (\d+)|\(os error (\d+)\)|\[Errno (\d+)\]", str(error))
    return int(match[1] or match[2] or match[3]) if match else None


def names_of(error: BaseException) -> list[str]:
    """The files that an error of the system names; the one that is written is the last."""
    names = (getattr(error, name, None) for name in ("filename", "filename2"))
    return [os.fsdecode(name) for name in names if isinstance(name, str | bytes)]


def newest(place: Path) -> Path:
    """The file of the folder `place` that was written last: the one that could not be finished. Else `place` itself."""
    try:
        files = [file for file in place.rglob("*") if file.is_file()]
        return max(files, key=lambda file: file.stat().st_mtime_ns, default=place)
    except OSError:
        return place


def closer(number: int | None, file: Path) -> int | None:
    """The number of the reason, as far as the file system shows it: torch keeps its own, and a disk is full in two ways."""
    system = os.statvfs(existing(file))
    if number == errno.ENOSPC and system.f_files and not system.f_favail:
        return NO_INODES
    if number is None and system.f_bavail * system.f_frsize < ALMOST_FULL:
        return errno.ENOSPC
    limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    return errno.EFBIG if number is None and limited else number


def no_room_message(file: Path, number: int | None, needed: Bytes = None, text: str = "") -> str:
    """One line: the file, the reason, the amounts, the remedy. `text` is the error's own, for one without a number."""
    unknown = os.strerror(number) if number else " ".join(text.split())[:200]
    reason, remedy = REASONS.get(number, (unknown, "remove the cause"))
    amounts, limit = [], resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        count = needed() if callable(needed) else needed
        amounts = [f"{size(count)} are needed"] if count else []
    if number == errno.ENOSPC:
        amounts.append(f"{size(room(file))} are free")
    elif number == errno.EFBIG and limit != resource.RLIM_INFINITY:
        amounts.append(f"{size(limit)} are allowed")
    why = f"{reason} ({', '.join(amounts)})" if amounts else reason
    return f"{file}: cannot be written: {why}: {remedy}"


def existing(place: Path) -> Path:
    """`place`, or the nearest folder above it that is there."""
    return next(folder for folder in (place, *place.absolute().parents) if folder.exists())


def room(place: Path) -> int:
    """The bytes that this user may still write where `place` lies."""
    return shutil.disk_usage(existing(place)).free


def remove(place: Path) -> None:
    """Remove what was begun; whatever stands in the way of that is left."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(OSError):
            place.unlink()
