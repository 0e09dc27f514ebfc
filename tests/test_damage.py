"""Run files that were deleted or damaged: made again from what is whole with a warning, or told in one line; never silent."""

import hashlib
import json
import shutil

import pytest
from fakes import recipe, write_recipe

POINTS = ("00-base", "01-reverse", "02-caesar")


@pytest.fixture(scope="module")
def finished(cpt, tmp_path_factory):
    """A finished run of two short tasks."""
    folder = tmp_path_factory.mktemp("finished")
    content = recipe("sft", evaluate=4)
    for task in content["stream"]:
        task["stages"][0]["args"] |= {"max_steps": 2}
    write_recipe(folder / "recipe.yaml", content)
    assert cpt("run", folder / "recipe.yaml", "--out", folder / "run", "--quiet") == 0, cpt.output
    return folder


@pytest.fixture
def again(cpt, finished, tmp_path):
    """`again(damage)`: damage a copy of the run, give the command again; the exit code, what was said, and the copy."""

    def give(damage):
        out = tmp_path / "run"
        shutil.copytree(finished / "run", out, symlinks=True)
        damage(out)
        return cpt("run", finished / "recipe.yaml", "--out", out, "--quiet"), cpt.output, out

    return give


def state(run) -> dict:
    """What must be the same again: weights, answers, and the matrix."""
    files = [run / "points" / point / "model" / "model.safetensors" for point in POINTS]
    files += [run / "evaluations" / f"{point}.jsonl" for point in POINTS]
    accuracy = json.loads((run / "results.json").read_text())["accuracy"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files} | {"accuracy": accuracy}


def write(name: str, content: bytes | str):
    return lambda run: (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(name: str):
    """The last line of a file goes."""

    def damage(run):
        lines = (run / name).read_text().splitlines(keepends=True)
        (run / name).write_text("".join(lines[:-1]))

    return damage


def remove(*names: str):
    def damage(run):
        for name in names:
            place = run / name
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    return damage


EVALUATION = "the evaluation of 01-reverse is damaged (not what was written): evaluating it again"
MADE_AGAIN = {
    "an evaluation without its last line": (cut("evaluations/01-reverse.jsonl"), EVALUATION),
    "an empty evaluation": (write("evaluations/01-reverse.jsonl", ""), EVALUATION),
    "an evaluation that is no JSON": (write("evaluations/01-reverse.jsonl", b"\xff{"), EVALUATION),
    "no cost of an evaluation": (remove("evaluations/01-reverse.cost.json"), EVALUATION),
    "a torn cost of an evaluation": (write("evaluations/01-reverse.cost.json", "{"), EVALUATION),
    "a list for a cost": (write("evaluations/01-reverse.cost.json", "[]"), EVALUATION),
    "a point that is gone": (
        remove("points/01-reverse"),
        "01-reverse is gone, though it was committed: going on from 00-",
    ),
    "the last point gone": (
        remove("points/02-caesar"),
        "02-caesar is gone, though it was committed: going on from 01-",
    ),
    "the base gone": (
        remove("points/00-base"),
        "00-base is gone, though it was committed: going on from the model itself",
    ),
    "all points gone": (remove("points"), "00-base is gone, though it was committed: going on from the model itself"),
    "a DONE that is a list": (write("points/01-reverse/DONE", "[]"), "01-reverse is damaged"),
    "a DONE of nothing": (write("points/02-caesar/DONE", "{}"), "02-caesar is damaged"),
    "a DONE that is a number": (write("points/02-caesar/DONE", "3"), "02-caesar is damaged"),
}


@pytest.mark.parametrize("name", MADE_AGAIN)
def test_it_is_made_again_with_a_warning(name, again, finished):
    damage, warning = MADE_AGAIN[name]
    code, said, run = again(damage)
    assert code == 0, said
    assert warning in said and said.count("warning: ") == 1
    assert state(run) == state(finished / "run")


REFUSED = {
    "an empty recipe": (write("recipe.yaml", ""), "recipe.yaml: is damaged"),
    "a torn recipe": (write("recipe.yaml", "{a: [1"), "recipe.yaml: is damaged"),
    "a binary recipe": (write("recipe.yaml", bytes(range(256))), "recipe.yaml: is damaged"),
    "a recipe with a control character": (write("recipe.yaml", "\x00"), "recipe.yaml: is damaged"),
    "a recipe that is a list": (write("recipe.yaml", "[1]"), "recipe.yaml: is damaged"),
    "an empty manifest": (write("manifest.json", ""), "manifest.json: is damaged"),
    "a manifest without data": (write("manifest.json", "{}"), "manifest.json: is damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line(name, again):
    damage, part = REFUSED[name]
    code, said, _ = again(damage)
    assert code == 2, said
    lines = [line for line in said.splitlines() if line.startswith("cpt: ")]
    assert len(lines) == 1 and part in lines[0] and "Traceback" not in said


def test_a_report_of_a_manifest_that_is_not_whole_is_refused_in_one_line(cpt, finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "manifest.json").write_text('{"cpt": "0.1.0", "data": {}}')
    assert cpt("report", tmp_path / "run") == 2
    assert "manifest.json: no (or no right) versions, hardware" in cpt.output and "Traceback" not in cpt.output


@pytest.mark.parametrize("names", [("evaluations",), ("manifest.json", "results.json", "evaluations/00-base.jsonl")])
def test_what_was_taken_away_whole_is_written_again(names, again, finished):
    code, said, run = again(remove(*names))
    assert code == 0 and "warning" not in said, said
    assert state(run) == state(finished / "run")
