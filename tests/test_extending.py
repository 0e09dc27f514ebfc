"""docs/extending.md: its files and its recipe are run as they stand there."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file

from cpt.recipe import load
from cpt.recipe.json_schema import schema

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = {name: text for text, name in re.findall(r"^```\w+\n(# ([\w.]+)\n.*?)^```$", PAGE, re.M | re.S)}


def write(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "recipe.yaml"


def module(file: Path):
    """The file by itself, to compare with."""
    spec = importlib.util.spec_from_file_location(f"plain_{file.stem}", file)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def run(cpt, tmp_path_factory):
    folder = tmp_path_factory.mktemp("extending")
    file = write(folder)
    assert cpt("check", file, "--out", folder / "run") == 0, cpt.output
    plan = cpt.output
    assert cpt("run", file, "--out", folder / "run", "--quiet") == 0, cpt.output
    return folder / "run", plan


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_the_page_has_one_of_each():
    assert list(FILES) == ["ewc.py", "shortest.py", "copies.py", "letters.py", "worst.py", "recipe.yaml"]


def test_the_plan_names_them(run):
    for line in (
        "shortest:Shortest: 4 steps of 8 rows, lr 0.001, on the 25% of rows with the shortest demonstrations",
        "ewc:Ewc, strength 5",
        "held out, Copies: 8 questions on letter",
        "metric: worst_accuracy (worst:worst_accuracy)",
        "gate: worst_accuracy at least 0",
    ):
        assert line in run[1]


def test_the_penalty_acts_on_the_second_task(run, cpt):
    folder, _ = run
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in logged if "loss" in line]
    first, second = ([line["ewc/penalty"] for line in lines if line["task"] == task] for task in ("reverse", "caesar"))
    assert first == [0.0] * 4
    assert second[0] == 0.0 and all(value > 0 for value in second[1:]), "its first step begins at the anchor"
    state = load_file(folder / "points" / "01-reverse" / "strategies" / "0-Ewc" / "tensors.safetensors")
    trained = load_file(folder / "points" / "01-reverse" / "model" / "model.safetensors")
    names = [name for name in trained if f"anchor/{name}" in state]
    assert names and all(state[f"anchor/{name}"].equal(trained[name]) for name in names)
    assert all((state[f"importance/{name}"] >= 0).all() and state[f"importance/{name}"].sum() > 0 for name in names)
    alone = ("strategies=[]", "--out", folder.parent / "plain", "--quiet")
    assert cpt("run", folder.parent / "recipe.yaml", *alone) == 0, cpt.output
    mine, plain = (load_file(each / "final" / "model.safetensors") for each in (folder, folder.parent / "plain"))
    assert any(not mine[name].equal(plain[name]) for name in mine)


def test_the_stage_trains_on_the_shortest(run):
    record = results_of(run[0])["stages"][-1]
    assert (record["kind"], record["stage"], record["notes"]) == ("shortest:Shortest", "0-Shortest", ["50 of 200 rows"])


def test_the_verifiers_scores(run):
    score = module(run[0].parent / "letters.py").share_right
    assert score("abxde", {"answer": "abcde"}) == 0.8 and score("", {"answer": "ab"}) == 0.0
    for point in ("00-base", "02-caesar"):
        lines = [json.loads(line) for line in (run[0] / "evaluations" / f"{point}.jsonl").read_text().splitlines()]
        mine = [line for line in lines if line["task"] == "caesar"]
        assert len(mine) == 8
        assert [line["score"] for line in mine] == [score(line["completion"], line) for line in mine]


def test_the_suites_questions(run):
    lines = [json.loads(line) for line in (run[0] / "evaluations" / "00-base.jsonl").read_text().splitlines()]
    asked = {line["prompt"]: line["answer"] for line in lines if line["suite"] == "Copies"}
    assert asked == {f"copy{letter}=": letter for letter in "abcdefgh"}
    assert results_of(run[0])["held_out_questions"] == {"Copies": 8}


def test_the_metrics_number(run):
    results = results_of(run[0])
    assert results["metrics"]["worst_accuracy"] == min(results["accuracy"][-1])
    (gate,) = results["gates"]
    assert (gate["name"], gate["direction"], gate["value"]) == ("worst_accuracy", "min", min(results["accuracy"][-1]))
    low, high = results["intervals"]["metrics"]["worst_accuracy"]
    assert low <= gate["value"] <= high


def test_the_manifest_and_the_report(run):
    manifest = json.loads((run[0] / "manifest.json").read_text())
    assert {kind: [*files] for kind, files in manifest["user_code"].items()} == {
        "ewc:Ewc": ["ewc.py"],
        "shortest:Shortest": ["shortest.py"],
        "copies:Copies": ["copies.py"],
    }
    assert list(manifest["verifiers"]) == ["letters:share_right"]
    report = (run[0] / "report.md").read_text()
    for words in ("0-Shortest", "Copies", "| Worst accuracy | **", "The lowest accuracy of a task at the end."):
        assert words in report


def test_a_killed_run_goes_on(run, cpt, tmp_path):
    """With the penalty's anchors and importances: the same weights."""
    file, at = write(tmp_path), {"place": "transformers.Trainer.training_step", "call": 7}
    every = ("stream.caesar.stages.0.args.save_steps=2", "--out", tmp_path / "run", "--quiet")
    assert cpt("run", file, *every, at=at) == -9
    assert cpt("run", file, *every) == 0, cpt.output
    ends = [folder / "final" / "model.safetensors" for folder in (run[0], tmp_path / "run")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_the_long_form_of_a_metric(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    (long,) = re.findall(r"metrics: (\[\{function.*?\}\])", PAGE)
    recipe = load(tmp_path / "recipe.yaml", [f"evaluation.metrics={long}", "evaluation.gates={worst: 0.5}"])
    assert recipe.evaluation.metrics[0].label == "worst"


def test_the_schema_takes_the_recipe(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(schema())))
    content = json.loads(json.dumps(YAML(typ="safe", pure=True).load(FILES["recipe.yaml"])))
    validator.validate(content)
    content["defaults"]["shortest:Shortest"] = {"options": {"share": 0.5}}
    content["evaluation"]["suites"].append("general")
    validator.validate(content)
    for wrong in (
        content | {"strategies": [{"kind": "ewc:Ewc", "strength": 5}]},
        content | {"strategies": [{"kind": "ewc"}]},
        content | {"evaluation": {"metrics": [{"function": "worst"}]}},
        content | {"evaluation": {"suites": [{"kind": "copies:Copies", "nam": "x"}]}},
    ):
        assert list(validator.iter_errors(wrong)), wrong
