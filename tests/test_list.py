"""`cpt list`, `--json`, and what the shell completes."""

import json
import os
import subprocess
import sys
import time

import pytest

from cpt import tiny
from cpt.cli.main import main
from cpt.recipe import load, load_suite
from cpt.recipe.catalogue import ALSO, catalogue
from cpt.recipe.rewards import VERIFIERS
from cpt.recipe.stages import STAGE_MODELS
from cpt.recipe.strategies import STRATEGY_MODELS
from helpers.recipes import short, write_recipe


def called(capsys, *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return ended.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize("kind", list(ALSO))
def test_every_name_has_a_line(capsys, kind):
    names = catalogue(kind)
    assert names and all(line.endswith((".", ")")) and "\n" not in line for line in names.values())
    code, out, _ = called(capsys, "list", kind)
    assert code == 0 and all(any(each.startswith(f"{name} ") for each in out.splitlines()) for name in names)
    assert json.loads(called(capsys, "list", kind, "--json")[1]) == [
        {"name": name, "description": line} for name, line in names.items()
    ]


def test_what_is_listed_can_be_used():
    assert all(load(name).name for name in catalogue("recipes"))
    assert all(load_suite(name).name == name for name in catalogue("suites"))
    for kind, models in (("verifiers", VERIFIERS), ("strategies", STRATEGY_MODELS), ("stages", STAGE_MODELS)):
        assert {each.model_fields["kind"].annotation.__args__[0] for each in models} <= catalogue(kind).keys()


def test_the_kinds_of_the_parser_are_those_of_the_catalogue():
    from cpt.cli.listing import KINDS

    assert tuple(ALSO) == KINDS


def test_an_unknown_list_is_one_line(capsys):
    code, _, err = called(capsys, "list", "recipe")
    assert code == 2 and "did you mean recipes?" in err and len(err.splitlines()) == 1


def test_check_as_json(capsys, tmp_path):
    file = write_recipe(tmp_path / "mine.yaml", short("sft"))
    code, out, _ = called(capsys, "check", str(file), "--json", "--out", str(tmp_path / "run"))
    found = json.loads(out)
    assert code == 0 and found["problems"] == [] and found["name"] == "test" and "reverse" in found["plan"]
    file.write_text(file.read_text().replace("reward: exact", "reward: exac", 1))
    code, out, err = called(capsys, "check", str(file), "--json")
    (problem,) = json.loads(out)["problems"]
    assert code == 2 and problem["file"] == str(file) and problem["line"] and "exact" in problem["message"]
    assert "exact" in err, "a person sees it too"


def test_eval_as_json(capsys):
    code, out, err = called(capsys, "eval", str(tiny.path(0)), "--suite", "probe", "--json")
    found = json.loads(out)
    assert code == 0 and found["questions"] == {"probe": {"dedup": 100}}
    low, high = found["intervals"]["probe"]["dedup"]
    assert low <= found["accuracy"]["probe"]["dedup"] <= high and "probe/dedup" in err


def completed(line: str, folder) -> list[str]:
    """What the shell is offered at the end of the line."""
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\013",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "offered"),
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n",
    }
    subprocess.run([sys.executable, "-P", "-m", "cpt", *line.split()[1:]], env=environment, cwd=folder, timeout=60)
    return (folder / "offered").read_text().split("\013")


def test_completion(tmp_path):
    (tmp_path / "runs" / "mine-s0" / "points" / "01-reverse").mkdir(parents=True)
    (tmp_path / "runs" / "mine-s0" / "recipe.yaml").touch()
    (tmp_path / "quiet.yaml").touch()
    offered = {each.strip() for each in completed("cpt run qui", tmp_path)}
    assert {"quickstart", "quickstart-sft", "quiet.yaml"} <= offered
    assert [each.strip() for each in completed("cpt report runs/m", tmp_path)] == ["runs/mine-s0"]
    assert [each.strip() for each in completed("cpt eval runs/mine-s0 --point 0", tmp_path)] == ["01-reverse"]
    assert [each.strip() for each in completed("cpt eval runs/mine-s0 --suite gen", tmp_path)] == ["general"]
    assert [each.strip() for each in completed("cpt run quickstart stream.0.reward=fo", tmp_path)] == [
        "stream.0.reward=format"
    ]
    assert [each.strip() for each in completed("cpt list ver", tmp_path)] == ["verifiers"]


def test_help_imports_nothing_heavy():
    program = "import sys; from cpt.cli.main import parser; parser()[0].format_help()\n"
    program += (
        "print([each for each in sys.modules if each.split('.')[0] in ('torch', 'pydantic', 'numpy', 'argcomplete')])"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and time.monotonic() - start < 5
