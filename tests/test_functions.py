"""A user's function is looked at before the run: that it is there, and that it can be called as f(completion, row)."""

import pytest

from cpt.rewards.function import missing

MINE = """\
from json import dumps
def one(completion): ...
def two(completion, row): ...
def three(completion, row, weight): ...
def named(completion, row, *, weight): ...
def more(completion, row, weight=1, *, other=2): ...
def any_number(*words): ...
async def later(completion, row): ...
class Judge: ...
@dumps
def decorated(): ...
"""


@pytest.mark.parametrize("name", ["two", "more", "any_number", "Judge", "dumps", "decorated"])
def test_what_can_be_called(name, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    assert missing({"path": f"mine:{name}", "folder": str(tmp_path)}) is None


@pytest.mark.parametrize("path", ["json.decoder:JSONDecoder", "os.path:join", "numpy:dot", "numpy.linalg:norm"])
def test_what_an_installed_module_may_have(path, tmp_path):
    assert missing({"path": path, "folder": str(tmp_path)}) is None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("mine:none", "mine.py has no function none"),
        ("mine:one", "mine.py:2: one(completion) is called as one(completion, row)"),
        ("mine:three", "mine.py:4: three(completion, row, weight) is called as three(completion, row)"),
        ("mine:named", "mine.py:5: named(completion, row, *, weight) is called as"),
        ("mine:later", "mine.py:8: later is async, and a verifier must return its number"),
        ("json:check", "json/__init__.py has no function check"),
        ("json:dumps", "is called as dumps(completion, row)"),
        ("json.nothing:x", "Python has no json.nothing.x"),
        ("math:sqrt", "math.sqrt cannot be called as f(completion, row): "),
        ("math:nothing", "Python has no math.nothing"),
        ("torch.nothing_at_all:f", "no module torch.nothing_at_all"),
        ("nothing_at_all:f", "no module nothing_at_all: neither "),
        ("broken:f", "broken.py:1: "),
        ("deep:f", "deep.py"),
    ],
)
def test_what_cannot(path, said, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "deep.py").write_text("f = " + "(" * 5000 + ")" * 5000)
    assert said in missing({"path": path, "folder": str(tmp_path)})
