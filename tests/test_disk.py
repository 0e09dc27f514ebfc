"""Files that cannot be written: which, why, how much is needed and free, in one line; with room the run goes on."""

import errno
import logging
import os
import types
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from cpt import disk
from cpt.disk import writing
from cpt.errors import CannotWrite, UserError
from cpt.files import clone, write_json, write_whole
from cpt.merging.merge import merge
from cpt.rundir import RunDir
from cpt.screen import logs_to
from helpers.recipes import RECIPES, write_recipe
from helpers.same_end import assert_same_end


def refused(write, place: Path, **more) -> str:
    with pytest.raises(CannotWrite) as caught, writing(place, **more):
        write()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def raising(error: BaseException):
    def write():
        raise error

    return write


@pytest.fixture
def full(monkeypatch):
    """The file system says that 300 kB are free."""
    found = os.statvfs("/")
    values = {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}
    values |= {"f_bavail": 300, "f_frsize": 1000, "f_files": 10, "f_favail": 5}
    monkeypatch.setattr(disk.os, "statvfs", lambda place: types.SimpleNamespace(**values))
    monkeypatch.setattr(disk, "room", lambda place: 300_000)
    return values


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_names_the_file_and_what_is_missing(full, tmp_path):
    place = tmp_path / "model.safetensors"
    said = refused(raising(NO_SPACE), place, needed=1_500_000)
    assert said == f"{place}: cannot be written: the disk is full (1.5 MB are needed, 300 kB are free): make room"


def test_a_full_disk_as_each_library_tells_it(full, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "older").write_text("")
    os.utime(folder / "older", (1, 1))
    (folder / "optimizer.pt").write_text("half")
    errors = [
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/3"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
        RuntimeError('I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }'),
        RuntimeError("[enforce fail at inline_container.cc:747] . open file failed with strerror: No space left on device"),
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("Permission or space? [Errno 28] No space left on device"),
        OSError(errno.ENOSPC, "No space left on device", "/a/source", None, str(folder / "optimizer.pt")),
    ]  # fmt: skip
    for error in errors:
        assert refused(raising(error), folder).startswith(
            f"{folder}/optimizer.pt: cannot be written: the disk is full (300"
        )


def test_safetensors_leaves_no_file_to_name(full, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    error = SafetensorError('Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "..." }')
    assert refused(raising(error), tmp_path).startswith(
        f"{tmp_path}/*.safetensors: cannot be written: the disk is full"
    )
    assert refused(raising(error), tmp_path / "a.safetensors").startswith(
        f"{tmp_path}/a.safetensors: cannot be written"
    )


def test_a_disk_without_inodes(full, tmp_path):
    full["f_favail"] = 0
    assert "no room for one more file (its inodes are used up): delete some" in refused(
        raising(NO_SPACE), tmp_path / "a"
    )


@pytest.mark.parametrize(
    "number, said",
    [
        (errno.EDQUOT, "the disk quota is used up (1 kB are needed)"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "the disk failed"),
        (errno.EACCES, "you have no permission to write there"),
        (errno.EMFILE, "too many files open"),
        (errno.ENAMETOOLONG, "the name is too long"),
        (errno.ENOTDIR, "a file is where its folder should be"),
        (errno.EISDIR, "a folder has its name"),
        (errno.EPROTO, "Protocol error"),
    ],
)
def test_the_brothers_of_a_full_disk(number, said, tmp_path):
    file = tmp_path / "results.json"
    assert said in refused(raising(OSError(number, os.strerror(number), str(file))), file, needed=1000)
    assert said in refused(raising(OSError(number, os.strerror(number))), file, needed=1000)


def test_a_folder_that_is_gone(tmp_path):
    said = refused(lambda: (tmp_path / "gone" / "log").open("a"), tmp_path / "gone" / "log")
    assert "gone/log: cannot be written: its folder is gone" in said


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no number in this"),
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere/rows.jsonl"),
        PermissionError(errno.EACCES, "Permission denied", "/nowhere/rows.jsonl"),
        UserError("a mistake"),
        RuntimeError("CUDA out of memory"),
    ],
)
def test_other_errors_stay_what_they_are(error, tmp_path):
    with pytest.raises(type(error)) as caught, writing(tmp_path / "folder" / "file"):
        raise error
    assert caught.value is error


def test_what_was_begun_is_removed_and_what_was_there_stays(tmp_path):
    def begin(folder):
        folder.mkdir(exist_ok=True)
        (folder / "half").write_text("half")
        raise NO_SPACE

    refused(lambda: begin(tmp_path / "new"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    refused(lambda: begin(tmp_path / "old"), tmp_path / "old")
    assert (tmp_path / "old" / "half").exists()


def test_a_real_device_without_room():
    """/dev/full takes nothing."""
    place = Path("/dev/full")
    assert "/dev/full: cannot be written: the disk is full" in refused(lambda: place.write_text("a"), place)
    with pytest.raises(RuntimeError) as caught:
        torch.save({"a": torch.zeros(100_000)}, place)
    assert any(words in str(caught.value) for words in disk.NO_NUMBER), caught.value


@pytest.mark.parametrize("write", [write_json, lambda file, _: write_whole(file, "a" * 100)])
def test_a_file_that_could_not_be_written_whole_is_as_it_was(write, tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    file.write_text("old")
    monkeypatch.setattr(os, "fsync", raising_with_arguments(NO_SPACE))
    with pytest.raises(CannotWrite, match=r"results\.json: cannot be written: the disk is full"):
        write(file, {"new": 1})
    assert file.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["results.json"]


def raising_with_arguments(error):
    def fail(*_arguments, **_options):
        raise error

    return fail


def test_links_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("a")
    monkeypatch.setattr(os, "link", raising_with_arguments(NO_SPACE))
    with pytest.raises(CannotWrite, match="the disk is full"):
        clone(tmp_path / "a", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_run_directory_that_is_deleted_is_not_made_again(tmp_path):
    rundir = RunDir(tmp_path / "run")
    rundir.points.mkdir(parents=True)
    rundir.opened = (rundir.path.stat().st_dev, rundir.path.stat().st_ino)
    rundir.path.rename(tmp_path / "moved")
    for write in (lambda: rundir.append_metrics({"step": 1}), lambda: rundir.write_evaluation(None, [], {})):
        with pytest.raises(CannotWrite, match="run: the run directory was moved or deleted while the run was writing"):
            write()
    assert not rundir.path.exists()


def test_a_log_on_a_full_disk_is_said_once_and_ends_nothing(capsys):
    with logs_to(Path("/dev/full")):
        for _ in range(3):
            logging.getLogger("cpt").warning("a line")
    said = capsys.readouterr().err
    assert said == "cpt: warning: /dev/full: cannot be written (No space left on device): what follows is lost\n"


# -- whole commands, with a limit on the size of files (which needs no rights) -------------------------------------------

LIMITS = {  # bytes: what is met first
    2_000: ("sft", "points/.00-base.work/model/"),
    1_000_000: ("sft", "points/.00-base.work/model/model.safetensors"),
    2_000_000: ("sft", "points/.01-reverse.work/0-sft/trainer/checkpoint-4/optimizer.pt"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_run_whose_files_do_not_fit_goes_on_when_they_do(limit, cpt, alone, tmp_path):
    kind, where = LIMITS[limit]
    file, out = write_recipe(tmp_path / "recipe.yaml", RECIPES[kind]), tmp_path / "run"
    assert cpt("run", file, "--out", out, "--quiet", file_size=limit) == 1, cpt.output
    [line] = cpt.output.splitlines()
    assert (
        line.startswith(f"cpt: {out}/{where}") and "cannot be written: files of this size are not allowed here" in line
    )
    assert "are needed" in line and "the same command resumes from there" in line
    assert not list(out.rglob("*.part")) and not list(out.rglob("checkpoint-*"))
    assert cpt("run", file, "--out", out, "--quiet") == 0, cpt.output
    assert_same_end(out, alone(kind))


def test_a_merge_whose_files_do_not_fit(cpt, tmp_path, tiny_folder):
    words = ("merge", tiny_folder, tiny_folder, "--method", "linear", "--out", tmp_path / "out", "--quiet")
    assert cpt(*words, file_size=1_000_000) == 1
    [line] = cpt.output.splitlines()
    assert (
        "files of this size are not allowed here (1.46 MB are needed, 1 MB are allowed)" in line
        and "nothing is kept" in line
    )
    assert [*tmp_path.iterdir()] == []
    assert cpt(*words) == 0, cpt.output


def test_a_merge_in_python_names_its_file(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
        save_file({"w": torch.ones(4, 4)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.setattr(os, "posix_fallocate", raising_with_arguments(NO_SPACE))
    with pytest.raises(CannotWrite, match=r"\.out\.partial.*the disk is full"):
        merge("linear", [tmp_path / "a", tmp_path / "b"], None, (), tmp_path / "out")
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.parametrize("limit, name", [(3_000, "report.html"), (600, "report.html")])
def test_a_report_that_does_not_fit(limit, name, cpt, tmp_path):
    from helpers.fake_run import make_run

    run = make_run(tmp_path / "run", count=5)
    assert cpt("report", run, file_size=limit) == 1, cpt.output
    [line] = cpt.output.splitlines()
    assert f"run/{name}: cannot be written" in line and line.endswith("nothing was written")
