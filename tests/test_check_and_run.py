"""`cpt check` knows what `cpt run` would refuse without training: another run's folder, changed rows, the launcher."""

import json

import pytest

from cpt.checks import all_checks
from cpt.errors import RecipeErrors
from cpt.recipe import load
from cpt.rundir import RunDir
from helpers.recipes import plain_rows, recipe, rows_task, write_recipe


def refused(content: dict, folder, *overrides: str) -> str:
    with pytest.raises(RecipeErrors) as caught:
        all_checks.check(load(write_recipe(folder / "recipe.yaml", content), overrides), folder / "run")
    return str(caught.value)


@pytest.fixture
def begun(cpt, tmp_path):
    """A run of two steps whose recipe is recipe.yaml and whose folder is run."""
    content = rows_task(tmp_path, plain_rows(20), plain_rows(4, 50))
    content["stream"][0]["stages"][0]["args"]["max_steps"] = 2
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet") == 0, cpt.output
    return content


def test_a_run_that_began(cpt, begun, tmp_path):
    """Its own recipe passes; another one, other rows, and another number of processes do not."""
    all_checks.check(load(tmp_path / "recipe.yaml"), tmp_path / "run")
    assert refused(begun, tmp_path, "seed=8").startswith("--out: ")
    assert "holds a run of another recipe: seed: 0 there, 8 here" in refused(begun, tmp_path, "seed=8")
    lines = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(lines + json.dumps(plain_rows(1, 30)[0]) + "\n")
    assert "the rows of reverse are not those that this run began with" in refused(begun, tmp_path)
    (tmp_path / "train.jsonl").write_text(lines)
    file = tmp_path / "run" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"world_size": 2}))
    all_checks.check(load(tmp_path / "recipe.yaml"), tmp_path / "run")  # nothing is left to train
    (RunDir(tmp_path / "run").points / "01-reverse" / "DONE").unlink()
    assert "this run began with 2 process(es)" in refused(begun, tmp_path)


@pytest.mark.parametrize("name", ["train.txt", "thesis.pdf"])
def test_a_folder_of_other_things(name, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("precious")
    assert "is not empty and holds no run (no recipe.yaml)" in refused(recipe("sft"), tmp_path)


def test_all_tasks_are_told_at_once(cpt, tmp_path):
    """Problems of the data, the forms, the answers and the tokens of several tasks, by check and by run alike."""
    content = recipe("sft", "rlvr", tasks=("reverse", "sort", "caesar"))
    rows = {
        "reverse": [{"prompt": "reverseabcde=", "answer": "edcba"}],
        "sort": [{"prompt": "sortZbcde=", "answer": "abcde", "demonstration": "abcde"}] * 3,
        "caesar": [{"prompt": "caesarabcde=", "demonstration": "abcde"}],
    }
    for task, (name, made) in zip(content["stream"], rows.items(), strict=True):
        made = [
            row | {"prompt": row["prompt"].replace("e=", f"{letter}=")} for row in made for letter in "abc"[: len(made)]
        ]
        made = made[: len({row["prompt"] for row in made})]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
        (tmp_path / f"{name}-asked.jsonl").write_text(json.dumps({"prompt": f"{name}jjjjj=", "answer": "jjjjj"}) + "\n")
        task["data"] = {"source": "jsonl", "train": f"{name}.jsonl", "eval": f"{name}-asked.jsonl"}
        task["stages"][1]["args"]["per_device_train_batch_size"] = 4
    content["stream"].append(
        {**content["stream"][0], "task": "gone", "data": {"source": "jsonl", "train": "x", "eval": 1}}
    )
    file = write_recipe(tmp_path / "recipe.yaml", content)
    said = []
    for command in ("check", "run"):
        assert cpt(command, file, "--out", tmp_path / "run") == 2
        said.append([line for line in cpt.output.splitlines() if line.startswith("cpt: ")])
    assert said[0] == said[1]
    for part in (
        "stream.reverse: row reverse/train/0 (reverse.jsonl:1) has answer, id, prompt; a sft stage needs a demonstration",
        "row sort/train/0 (sort.jsonl:1): the tokenizer cannot encode 'Z'",
        "row caesar/train/0 (caesar.jsonl:1) has no answer",
        "/x: no such file",
    ):
        assert sum(part in line for line in said[0]) == 1, "\n".join([part, *said[0]])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_what_needs_whole_weights(name, tmp_path, monkeypatch):
    content = recipe("self-distillation", tasks=("reverse",))
    content["strategies"] = [{"kind": "stochastic-restore"}, {"kind": "ema", "rule": "psmt", "serve": "live"}]
    monkeypatch.setenv(name, "true")
    lines = refused(content, tmp_path).splitlines()
    for key in ("stream.reverse.stages.0.kind", "strategies.0.kind", "strategies.1.rule"):
        assert any(
            line.startswith(key) and "on each process, which DeepSpeed and FSDP do not keep" in line for line in lines
        ), key


def test_nothing_is_written_by_check(cpt, tmp_path):
    file = write_recipe(tmp_path / "recipe.yaml", recipe("sft"))
    assert cpt("check", file, "--out", tmp_path / "run", "--full") == 0, cpt.output
    assert [each.name for each in tmp_path.iterdir()] == ["recipe.yaml"]
