"""`cpt eval` of what is damaged, broken or missing: refused in one line, or warned of, never a traceback."""

import json
import shutil

import pytest
from ruamel.yaml import YAML

from cpt.cli import main as cli
from cpt.errors import EngineFailed
from helpers.recipes import recipe, write_recipe

SUITE = (
    "name: {name}\ntasks:\n  - {{task: copy, data: {{source: procedural, name: copy, eval: 3}}, reward: {reward}}}\n"
)


@pytest.fixture(scope="module")
def runs(cpt, tmp_path_factory):
    """Two finished runs of one task: all weights, and an adapter."""
    folder = tmp_path_factory.mktemp("runs")
    for name, adapter in (("full", None), ("adapter", {"kind": "lora", "r": 2, "target_modules": "all-linear"})):
        content = recipe("sft", tasks=("reverse",), evaluate=3) | ({"adapter": adapter} if adapter else {})
        content["stream"][0]["stages"][0]["args"]["max_steps"] = 1
        file = write_recipe(folder / f"{name}.yaml", content)
        assert cpt("run", file, "--out", folder / name, "--quiet") == 0, cpt.output
    return folder


@pytest.fixture
def suite(tmp_path):
    file = tmp_path / "held.yaml"
    file.write_text(SUITE.format(name="held", reward="exact"))
    return file


def copied(runs, name, tmp_path):
    shutil.copytree(runs / name, tmp_path / name, symlinks=True)
    return tmp_path / name


def refused(cpt, *parts: str) -> None:
    lines = [line for line in cpt.output.splitlines() if line.startswith("cpt: ")]
    assert "Traceback" not in cpt.output and len(lines) == 1, cpt.output
    assert all(part in lines[0] for part in parts), cpt.output


def test_a_damaged_point_is_never_passed_over_in_silence(cpt, runs, suite, tmp_path):
    run = copied(runs, "full", tmp_path)
    (run / "points" / "01-reverse" / "model" / "model.safetensors").write_bytes(b"x")
    assert cpt("eval", run, "--suite", suite, "--quiet") == 0, cpt.output
    assert "warning: " in cpt.output and "damaged: 01-reverse (" in cpt.output and "using 00-base" in cpt.output
    assert cpt("eval", run, "--suite", suite, "--point", "01-reverse") == 2
    refused(cpt, "01-reverse is damaged; available: 00-base, 01-reverse (damaged)")
    assert cpt("eval", runs / "full", "--suite", suite) == 0
    assert f"evaluating 01-reverse of {runs / 'full'}" in cpt.output and "warning" not in cpt.output


def test_a_run_without_its_base(cpt, runs, suite, tmp_path):
    """All weights need no base; an adapter does."""
    for name in ("full", "adapter"):
        shutil.rmtree(copied(runs, name, tmp_path) / "points" / "00-base")
    assert cpt("eval", tmp_path / "full", "--suite", suite, "--quiet") == 0, cpt.output
    assert cpt("eval", tmp_path / "adapter", "--suite", suite) == 2
    refused(cpt, "is an adapter on 00-base of ", "which is missing or damaged")


@pytest.mark.parametrize(
    "name, content, part",
    [
        ("config.json", "{", "the config (config.json) cannot be loaded"),
        ("config.json", "[]", "the config (config.json) cannot be loaded"),
        ("config.json", '{"model_type": "qwen3", "hidden_size": "x"}', "the config (config.json) cannot be loaded"),
        ("model.safetensors", "junk", "the model cannot be loaded (SafetensorError"),
        ("model.safetensors", None, "the model cannot be loaded (OSError: Error no file named model.safetensors"),
        ("tokenizer.json", "{", "the tokenizer cannot be loaded"),
    ],
)
def test_a_broken_model_folder(cpt, tiny_folder, suite, tmp_path, name, content, part):
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    if content is not None:
        (tmp_path / "model" / name).write_text(content)
    assert cpt("eval", tmp_path / "model", "--suite", suite) == 2, cpt.output
    refused(cpt, part, str(tmp_path / "model"))


@pytest.mark.parametrize(
    "name, content, part",
    [
        ("adapter_config.json", "{", "the adapter's config (adapter_config.json) cannot be loaded"),
        ("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": null}', "is null: write the folder"),
        ("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "/no/where"}', "no folder /no/where"),
        ("adapter_model.safetensors", "junk", "the adapter cannot be loaded"),
    ],
)
def test_a_broken_adapter_folder(cpt, runs, suite, tmp_path, name, content, part):
    shutil.copytree(runs / "adapter" / "final", tmp_path / "adapter")
    (tmp_path / "adapter" / name).unlink()
    (tmp_path / "adapter" / name).write_text(content)
    assert cpt("eval", tmp_path / "adapter", "--suite", suite) == 2, cpt.output
    refused(cpt, part)


@pytest.mark.parametrize(
    "out, part", [(".", "is a folder; give a file"), ("file/answers.jsonl", "cannot be written"), ("/proc/x", "cannot")]
)
def test_answers_that_cannot_be_written_are_not_waited_for(cpt, tiny_folder, suite, tmp_path, out, part):
    (tmp_path / "file").write_text("")
    assert cpt("eval", tiny_folder, "--suite", suite, "--out", tmp_path / out) == 2, cpt.output
    refused(cpt, "--out: ", part)
    assert "evaluating" not in cpt.output


def test_all_mistakes_of_all_suites(cpt, tiny_folder, suite, tmp_path):
    (tmp_path / "bad.yaml").write_text(SUITE.format(name="bad", reward="exct"))
    (tmp_path / "judged.yaml").write_text(SUITE.format(name="judged", reward="'nowhere_at_all:f', metric: exact"))
    asked = [word for name in ("bad", "nowhere", "judged") for word in ("--suite", tmp_path / f"{name}.yaml")]
    assert cpt("eval", tiny_folder, *asked) == 2
    lines = [line for line in cpt.output.splitlines() if line.startswith("cpt: ")]
    assert len(lines) == 3 and "bad.yaml:3: tasks.0.reward" in lines[0] and "nowhere.yaml" in lines[1], cpt.output
    assert "suite judged: tasks.copy.reward: no module nowhere_at_all" in lines[2]
    assert cpt("eval", tiny_folder, "--suite", suite, "--suite", suite) == 2
    refused(cpt, "--suite: two suites are called held: pass only one of them")


def test_what_is_written(cpt, tiny_folder, suite, tmp_path):
    out = tmp_path / "new" / "answers.jsonl"
    assert cpt("eval", tiny_folder, "--suite", suite, "--out", out, "--quiet") == 0, cpt.output
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 3
    assert [file.name for file in out.parent.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("name", ["full", "adapter"])
def test_a_point_by_its_folder(cpt, runs, suite, tmp_path, name):
    run = copied(runs, name, tmp_path)
    accuracy = []
    for asked in ([run], [run / "points" / "01-reverse"], [run / "points" / "01-reverse" / "model"]):
        assert cpt("eval", *asked, "--suite", suite, "--quiet") == 0, cpt.output
        accuracy.append(cpt.output)
    assert accuracy[0] == accuracy[1] == accuracy[2]
    (run / "points" / "01-reverse" / "model" / "tokenizer.json").write_text("{")
    assert cpt("eval", run / "points" / "01-reverse", "--suite", suite) == 2
    refused(cpt, "01-reverse: is damaged")


def test_an_engine_that_fails_is_told_without_a_traceback(monkeypatch, capsys):
    def fail(asked):
        raise EngineFailed("vllm serve ended with exit code 1; the end of its log:\nout of memory")

    monkeypatch.setitem(cli.COMMANDS, "eval", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", "model", "--suite", "general"])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "cpt: out of memory" in said and "Traceback" not in said


def test_the_tasks_of_a_run(cpt, runs, suite):
    """Of the final model, or of a point; beside suites; the same score as the run's own row, with an interval for all."""
    row = json.loads((runs / "full" / "results.json").read_text())["accuracy"]
    assert cpt("eval", runs / "full", "--tasks", "--suite", suite, "--json") == 0, cpt.output
    found = json.loads(cpt.output[cpt.output.index("{\n") :])
    assert found["accuracy"]["tasks"] == {"reverse": row[-1][0]} and set(found["accuracy"]) == {"tasks", "held"}
    assert cpt("eval", runs / "full", "--tasks", "--point", "00-base", "--quiet") == 0, cpt.output
    assert f"tasks: {row[0][0]:.3f} [" in cpt.output and "] of 3" in cpt.output


def test_nothing_to_evaluate(cpt, runs, tiny_folder):
    assert cpt("eval", runs / "full") == 2
    refused(cpt, "nothing to evaluate: give --suite (general, or a YAML file), or --tasks")
    assert cpt("eval", tiny_folder, "--tasks") == 2
    refused(cpt, "--tasks: ", "is no run and no point of one")


def test_a_model_on_the_hub_that_is_not_here(cpt, suite):
    assert cpt("eval", "nobody/nothing-of-this-name", "--suite", suite) == 2
    refused(cpt, "nobody/nothing-of-this-name is neither a local folder nor available from the hub")


def test_the_model_card(cpt, runs, suite):
    """In `final`, with valid metadata; the point stays whole, and no file in it is called a stranger's."""
    for name, library in (("full", "transformers"), ("adapter", "peft")):
        text = (runs / name / "final" / "README.md").read_text()
        head = YAML(typ="safe").load(text.split("---")[1])
        assert head["library_name"] == library and "cpt" in head["tags"]
        assert "| after reverse |" in text and "No gates were set" in text and "```yaml" in text
        assert cpt("eval", runs / name, "--suite", suite) == 0 and "warning" not in cpt.output, cpt.output
    assert not (runs / "full" / "points" / "00-base" / "model" / "README.md").exists()
