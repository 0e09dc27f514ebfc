"""Files that appear whole or not at all, and seals that see every change."""

import pytest

from cpt import files
from cpt.files import clone, is_intact, seal, whole_file, write_json
from cpt.opening import different_keys
from cpt.rundir import Point, RunDir


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "point"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights.safetensors").write_bytes(b"\x00" * 1000)
    (folder / "stages.json").write_text("[]")
    seal(folder)
    return folder


def test_a_sealed_folder_is_intact(sealed):
    assert is_intact(sealed)


def test_one_changed_byte_breaks_the_seal(sealed):
    file = sealed / "model" / "weights.safetensors"
    file.write_bytes(b"\x00" * 999 + b"\x01")
    assert not is_intact(sealed)


def test_a_missing_file_breaks_the_seal(sealed):
    (sealed / "stages.json").unlink()
    assert not is_intact(sealed)


def test_without_done_nothing_is_intact(sealed):
    (sealed / "DONE").unlink()
    assert not is_intact(sealed)


def test_a_torn_done_is_not_a_seal(sealed):
    text = (sealed / "DONE").read_text()
    (sealed / "DONE").write_text(text[: len(text) // 2])
    assert not is_intact(sealed)


@pytest.mark.parametrize("text", ["[]", "{}", "3", "null", "", "\x00"])
def test_a_done_that_is_no_map_of_hashes_is_not_a_seal(sealed, text):
    (sealed / "DONE").write_text(text)
    assert not is_intact(sealed)


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    file = tmp_path / "results.json"
    write_json(file, {"old": 1})
    with pytest.raises(RuntimeError), whole_file(file) as stream:
        stream.write('{"new"')
        raise RuntimeError
    assert file.read_text() == '{\n "old": 1\n}\n'


def test_a_clone_outlives_its_source(sealed, tmp_path):
    clone(sealed / "model", tmp_path / "copy")
    (sealed / "model" / "weights.safetensors").unlink()
    assert (tmp_path / "copy" / "weights.safetensors").read_bytes() == b"\x00" * 1000


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r\n"])
def test_what_unicode_takes_for_the_end_of_a_line_ends_no_line_of_ours(tmp_path, end):
    rundir, lines = RunDir(tmp_path), [{"completion": f"one{end}two"}, {"completion": "three"}]
    rundir.write_evaluation(Point(0, None), lines, {})
    assert rundir.read_evaluation(Point(0, None)) == (lines, {})
    for step, line in enumerate(lines):
        rundir.append_metrics({"task": line["completion"], "stage": "0-sft", "max_steps": 2, "step": step})
    rundir.forget_metrics(lambda line: line["step"] < 1)
    assert len(rundir.metrics.read_text().split("\n")) == 2


def tasks(*names: str) -> dict:
    return {"stream": [{"task": name, "stages": [{"kind": "sft"}]} for name in names]}


LONG = "/a/folder/that/has/a/very/long/name/and/lies/deep/below/others/"


@pytest.mark.parametrize(
    "theirs, mine, said",
    [
        (tasks("a", "b"), tasks("a"), ["stream: a, b there, a here"]),
        (tasks("a", "b"), tasks("b", "a"), ["stream: a, b there, b, a here"]),
        (tasks("a"), {"stream": [{"task": "a", "stages": []}]}, ['stream.0.stages.0: {"kind": "sft"} there, null here']),
        ({"x": []}, {"x": ["ä"]}, ['x.0: null there, "ä" here']),
        ({"x": None}, {"x": {"k": 1}}, ['x: null there, {"k": 1} here']),
        ({"x": [1, 2]}, {"x": [1, 2]}, []),
        ({"path": f"{LONG}one"}, {"path": f"{LONG}two"}, [f'path: ...{LONG[-20:]}one" there, ...{LONG[-20:]}two" here']),
    ],
)  # fmt: skip
def test_what_differs_is_said(theirs, mine, said):
    assert different_keys(theirs, mine) == said


def test_a_copy_shares_blocks_where_the_file_system_can(tmp_path, monkeypatch):
    """No file system at hand can: a stand-in takes the request, or refuses it as ext4 does."""
    (tmp_path / "a").write_bytes(b"weights")
    files.copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"weights"
    (tmp_path / "b").write_bytes(b"other")
    assert (tmp_path / "a").read_bytes() == b"weights", "a copy is no link"
    asked = []
    monkeypatch.setattr(files.sys, "platform", "linux")
    monkeypatch.setattr(files.fcntl, "ioctl", lambda *request: asked.append(request))
    monkeypatch.setattr(files.shutil, "copyfile", lambda *_: pytest.fail("the blocks are shared already"))
    files.copy_file(tmp_path / "a", tmp_path / "c")
    assert [request for _, request, _ in asked] == [0x40049409]


def test_a_clone_keeps_links_as_links(tmp_path):
    (tmp_path / "weights").write_bytes(b"1")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w").symlink_to(tmp_path / "weights")
    clone(tmp_path / "model", tmp_path / "copy")
    assert (tmp_path / "copy" / "w").is_symlink() and (tmp_path / "copy" / "w").read_bytes() == b"1"


def test_what_differs_is_named(sealed):
    (sealed / "stages.json").write_text("[1]")
    (sealed / "model" / "weights.safetensors").unlink()
    assert sorted(files.differing(sealed)) == ["model/weights.safetensors", "stages.json"]
