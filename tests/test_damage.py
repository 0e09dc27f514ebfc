"""Run files that were deleted or damaged: made again from what is whole with a warning, or told in one line; never silent."""

import hashlib
import json
import random
import shutil

import pytest
from filelock import FileLock

from cpt.errors import UserError
from cpt.report import build
from helpers.damage import WAYS, copy, files_of, harm, of_other_types
from helpers.fake_run import make_run
from helpers.recipes import recipe, write_recipe

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
        "01-reverse is missing, though it was committed: resuming from 00-",
    ),
    "the last point gone": (
        remove("points/02-caesar"),
        "02-caesar is missing, though it was committed: resuming from 01-",
    ),
    "the base gone": (
        remove("points/00-base"),
        "00-base is missing, though it was committed: resuming from the model itself",
    ),
    "all points gone": (
        remove("points"),
        "00-base is missing, though it was committed: resuming from the model itself",
    ),
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


def folder(name: str):
    """A folder stands where a file was."""

    def damage(run):
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return damage


def file(name: str):
    """A file stands where a folder was."""

    def damage(run):
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).write_text("")

    return damage


BELONGS = "there: move it away"
REFUSED = {
    "a folder for the recipe": (folder("recipe.yaml"), f"recipe.yaml: is a folder, but the run needs a file {BELONGS}"),
    "a folder for the manifest": (
        folder("manifest.json"),
        f"manifest.json: is a folder, but the run needs a file {BELONGS}",
    ),
    "a folder for the metrics": (
        folder("metrics.jsonl"),
        f"metrics.jsonl: is a folder, but the run needs a file {BELONGS}",
    ),
    "a folder for the results": (
        folder("results.json"),
        f"results.json: is a folder, but the run needs a file {BELONGS}",
    ),
    "a folder for the report": (folder("report.html"), f"report.html: is a folder, but the run needs a file {BELONGS}"),
    "a folder for the log": (folder("run.log"), f"run.log: is a folder, but the run needs a file {BELONGS}"),
    "a folder for the lock": (folder(".lock"), f".lock: is a folder, but the run needs a file {BELONGS}"),
    "a folder for an evaluation": (
        folder("evaluations/01-reverse.jsonl"),
        "01-reverse.jsonl: is a folder, but the run needs a ",
    ),
    "a folder for a cost": (
        folder("evaluations/00-base.cost.json"),
        "00-base.cost.json: is a folder, but the run needs a ",
    ),
    "a folder for the final link": (
        folder("final"),
        f"final: is a folder, but the run needs a link to the last model {BELONGS}",
    ),
    "a file for the points": (file("points"), f"points: is a file, but the run needs a folder {BELONGS}"),
    "a file for the evaluations": (
        file("evaluations"),
        f"evaluations: is a file, but the run needs a folder {BELONGS}",
    ),
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
    assert "manifest.json: is damaged: versions: Field required" in cpt.output and "Traceback" not in cpt.output


@pytest.mark.parametrize("names", [("evaluations",), ("manifest.json", "results.json", "evaluations/00-base.jsonl")])
def test_what_was_taken_away_whole_is_written_again(names, again, finished):
    code, said, run = again(remove(*names))
    assert code == 0 and "warning" not in said, said
    assert state(run) == state(finished / "run")


# -- lines that are damaged, files that nobody committed, a lock that says nothing ---------------------------------------


@pytest.mark.parametrize(
    "line", [b"{", b"3", b'{"task": "reverse"}', b'{"task": 1, "stage": "0-sft", "step": 1}', b"\xff"]
)
def test_damaged_metrics_are_put_aside(line, again, finished):
    whole = (finished / "run" / "metrics.jsonl").read_bytes()

    def damage(run):
        (run / "metrics.jsonl").write_bytes(line + b"\n" + whole)

    code, said, run = again(damage)
    assert code == 0 and said.count("warning: ") == 1, said
    assert "metrics.jsonl: damaged: line 1 (" in said and "moved to metrics.damaged" in said
    assert (run / "metrics.jsonl").read_bytes() == whole
    assert (run / "metrics.damaged").read_bytes() == line + b"\n"


def stranger(name: str, content: bytes = b"{}"):
    def damage(run):
        (run / "points" / "01-reverse" / name).parent.mkdir(exist_ok=True)
        (run / "points" / "01-reverse" / name).write_bytes(content)

    return damage


@pytest.mark.parametrize(
    "name", ["model/model.safetensors.index.json", "model/adapter_config.json", "model/vocab.txt", "served/config.json"]
)
def test_a_file_that_could_be_loaded_is_refused(name, again, cpt, finished, tmp_path):
    code, said, run = again(stranger(name))
    part = (
        f"points/01-reverse/{'served' if 'served' in name else name}: was not committed with the folder that holds it"
    )
    orders = {
        "merge": (
            "merge",
            run / "points" / "01-reverse",
            finished / "run",
            "--method",
            "linear",
            "--out",
            tmp_path / "m",
        ),
        "eval": ("eval", run, "--point", "01-reverse", "--suite", "general"),
        "eval of the point": ("eval", run / "points" / "01-reverse", "--suite", "general"),
    }
    for name in ("run", *orders):
        if name != "run":
            code, said = cpt(*orders[name]), cpt.output
        lines = [line for line in said.splitlines() if line.startswith("cpt: ")]
        assert code == 2 and len(lines) == 1 and part in lines[0] and "move it out of the run directory" in lines[0], (
            said
        )
    assert not (tmp_path / "m").exists()


def test_another_file_is_named_and_left_alone(again, finished):
    code, said, run = again(stranger("model/notes.md"))
    assert code == 0 and said.count("warning: ") == 1, said
    assert "points/01-reverse/model/notes.md: was not committed with the folder that holds it; it is left alone" in said
    assert state(run) == state(finished / "run") and (run / "points" / "01-reverse" / "model" / "notes.md").exists()


@pytest.mark.parametrize(
    "text, who", [("garbage", "another process"), ('{"pid": "x"}', "another process"), ("[]", "another process"),
                  ('{"pid": 12, "host": "node1"}', "process 12 on node1")]
)  # fmt: skip
def test_a_lock_is_told_whatever_its_file_says(text, who, again):
    locks = []

    def hold(run):
        (run / ".lock.json").write_text(text)
        locks.append(FileLock(run / ".lock"))
        locks[0].acquire()

    code, said, _ = again(hold)
    locks[0].release()
    assert (
        code == 2
        and f"{who} is writing this run; wait for it or give another --out" in said
        and "Traceback" not in said
    )


# -- every file, in every way --------------------------------------------------------------------------------------------

WRITTEN_ANEW = ("results.json", "report.html", "run.log", ".lock.json")  # by each command that goes on
TAKEN_AWAY = ("manifest.json", "metrics.jsonl", "evaluations/01-reverse.jsonl")  # whole: made again without a word
EVERY_KIND = (*WRITTEN_ANEW, "recipe.yaml", "manifest.json", "metrics.jsonl")
EVERY_KIND += ("evaluations/01-reverse.jsonl", "evaluations/01-reverse.cost.json", "points/01-reverse/DONE")
EVERY_KIND += tuple(
    f"points/01-reverse/{name}" for name in ("stages.json", "model/config.json", "model/model.safetensors")
)


def named(file: str, line: str) -> bool:
    """Whether a line names the file, or its point."""
    return file in line or any(point in file and point in line for point in POINTS)


@pytest.mark.parametrize("way", ["cut", "other types", "a folder", "no permission", "gone"])
@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_run_goes_on_to_the_same_or_is_refused_in_one_line(name, way, cpt, finished, tmp_path):
    run = copy(finished / "run", tmp_path / "run")
    if way == "other types" and of_other_types(run / name) is None:
        pytest.skip("is not JSON")
    before = (run / "points" / "01-reverse" / "DONE").stat().st_mtime
    WAYS[way](run / name)
    bound = way == "no permission"
    code, said = cpt("run", finished / "recipe.yaml", "--out", run, "--quiet", bound=bound), cpt.output
    lines = [line for line in said.splitlines() if line.startswith(("cpt: ", "warning: "))]
    assert "Traceback" not in said and all(named(name, line) for line in lines), said
    if code == 0:
        silent = (
            name in WRITTEN_ANEW or (way == "gone" and name in TAKEN_AWAY) or (name, way) == ("metrics.jsonl", "cut")
        )
        assert len(lines) == (not silent) and state(run) == state(finished / "run"), said
    else:
        assert code == (1 if "cannot be written: " in said else 2) and len(lines) == 1, said
    if bound and name not in WRITTEN_ANEW:  # nothing whole is made again
        assert code == 2 and (run / "points" / "01-reverse" / "DONE").stat().st_mtime == before, said


@pytest.mark.parametrize("way", WAYS)
def test_a_report_is_the_same_or_says_what_is_not(way, finished, tmp_path):
    before = (finished / "run" / "report.md").read_text()
    for name in EVERY_KIND:
        run, warnings = copy(finished / "run", tmp_path / "run"), []
        if way == "no permission" or (way == "other types" and of_other_types(run / name) is None):
            continue
        WAYS[way](run / name)
        try:
            build(run, warnings.append)
        except UserError as error:
            assert named(name, str(error)) and "\n" not in str(error), name
        else:
            left_out = way == "gone" and "Left out" in (run / "report.md").read_text()
            assert (run / "report.md").read_text() == before or left_out or warnings, name
            assert all(named(name, line) for line in warnings), name


def test_numbers_that_were_changed_are_told(finished, tmp_path):
    """Of the right type, and wrong: in the results, in the answers, in both files of them, in the manifest."""

    def change(name, old, new):
        def damage(run):
            text = (run / name).read_text()
            assert old in text, name
            (run / name).write_text(text.replace(old, new, 1))

        return damage

    def answers_and_their_hash(run):
        file = run / "evaluations" / "01-reverse.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        [one] = [line for line in lines if line["task"] == "reverse"][:1]
        one["score"] = 1 - one["score"]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        cost = json.loads(file.with_suffix(".cost.json").read_text())
        cost["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        file.with_suffix(".cost.json").write_text(json.dumps(cost))

    [accuracy] = {
        json.dumps(json.loads((finished / "run" / "results.json").read_text())["metrics"]["average_accuracy"])
    }
    for damage, part in (
        (
            change("results.json", f'"average_accuracy": {accuracy}', '"average_accuracy": 0.125'),
            "results.json: is damaged",
        ),
        (
            change("results.json", '"steps": 2', '"steps": 3'),
            "results.json: is damaged: its content is not what was written",
        ),
        (
            change("evaluations/01-reverse.jsonl", '"finished": true', '"finished": false'),
            "01-reverse.jsonl: is damaged",
        ),
        (answers_and_their_hash, "accuracy.1.0: is not that of the answers in evaluations/01-reverse.jsonl"),
    ):
        run = copy(finished / "run", tmp_path / "run")
        damage(run)
        with pytest.raises(UserError) as caught:
            build(run)
        assert part in str(caught.value)
    run, warnings = copy(finished / "run", tmp_path / "run"), []
    change("manifest.json", '"cores": ', '"cores": 1')(run)
    build(run, warnings.append)
    assert len(warnings) == 1 and "manifest.json: damaged: its content is not what was written" in warnings[0]


# -- damage at random ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_a_report_of_random_damage_is_made_or_refused_in_one_line(first, tmp_path):
    run = make_run(tmp_path / "run", count=5, tasks=("reverse", "caesar"))
    for seed in range(first, first + 50):
        draw = random.Random(seed)
        damaged = copy(run, tmp_path / "damaged")
        what = harm(draw, draw.choice([*files_of(damaged), damaged / "results.json"]))
        try:
            build(damaged, lambda line: None)
        except UserError as error:
            assert "\n" not in str(error), f"{seed}: {what}"


@pytest.mark.parametrize("seed", range(12))
def test_commands_on_random_damage_end_in_one_line(seed, cpt, finished, tmp_path):
    draw, run = random.Random(seed), copy(finished / "run", tmp_path / "run")
    what = harm(draw, draw.choice(files_of(run)))
    orders = {
        "run": ("run", finished / "recipe.yaml", "--out", run, "--quiet"),
        "check": ("check", finished / "recipe.yaml", "--out", run),
        "merge": ("merge", run, finished / "run", "--method", "linear", "--out", tmp_path / "merge"),
        "report": ("report", run),
    }
    name = draw.choice(list(orders))
    code = cpt(*orders[name])
    told = f"{name} after {what}: {code}\n{cpt.output}"
    assert code in (0, 2) and "Traceback" not in cpt.output, told
    assert sum(line.startswith("cpt: ") and "warning" not in line for line in cpt.output.splitlines()) == (code == 2), (
        told
    )
