"""Folders that a run or a merge leaves to others: readable under the umask, and without paths of this machine."""

import json
import os

import pytest

from cpt.files import apply_umask
from cpt.merging.plan import short_names
from helpers.recipes import short, write_recipe

LORA = {"adapter": {"kind": "lora", "r": 2, "target_modules": "all-linear"}}
MERGE = {"kind": "merge", "method": "wise", "feed_back": False}


@pytest.fixture
def shared_umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize("adapter", [{}, LORA], ids=["all weights", "adapter"])
def test_points_are_written_under_the_umask(adapter, cpt, tmp_path):
    """Models, merges of the stream, and what strategies keep; the umask is that of the test's process."""
    content = short("sft", "rlvr", steps=1, tasks=("reverse", "caesar"), evaluate=2) | adapter
    content["strategies"] = [{"kind": "ema", "decay": 0.5, "serve": "live"}, MERGE]
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 0, cpt.output
    umask = os.umask(0)
    os.umask(umask)
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file() and not file.is_symlink()]
    assert sum(file.suffix == ".safetensors" for file in files) >= 5
    assert {
        str(file): oct(file.stat().st_mode & 0o777) for file in files if file.stat().st_mode & 0o777 != 0o666 & ~umask
    } == {}


def test_a_folder_gives_its_rights_to_its_files(tmp_path, shared_umask):
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "weights").touch(mode=0o600)
    apply_umask(folder)
    assert (folder / "weights").stat().st_mode & 0o777 == 0o640


def test_no_path_of_the_run_is_in_what_is_shipped(cpt, tmp_path):
    content = short("sft", steps=1, tasks=("reverse", "caesar"), evaluate=2) | {"strategies": [MERGE]}
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 0, cpt.output
    merged = ("--method", "linear", "--out", tmp_path / "merged")
    assert cpt("merge", tmp_path / "run/points/01-reverse", tmp_path / "run", *merged) == 0, cpt.output
    shipped = [*(tmp_path / "run" / "final").iterdir(), *(tmp_path / "merged").iterdir()]
    assert not [file for file in shipped if str(tmp_path).encode() in file.read_bytes()]
    inside, beside = (json.loads((tmp_path / name / "merge.json").read_text()) for name in ("run/final", "merged"))
    assert inside["models"] == ["0-sft", "01-reverse"]
    assert beside["models"] == ["01-reverse", "02-caesar"]


def test_short_names(tmp_path):
    one, two, other = (tmp_path / name / "points/01-a/model" for name in ("run1", "run2", "run1/x"))
    assert list(short_names([one]).values()) == ["01-a"]
    assert list(short_names([one, one, tmp_path / "base"]).values()) == ["01-a", "base"]
    assert list(short_names([one, two]).values()) == ["run1/points/01-a", "run2/points/01-a"]
    assert list(short_names([one, two, other]).values()) == ["run1/points/01-a", "run2/points/01-a", "x/points/01-a"]
