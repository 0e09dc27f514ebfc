"""`cpt check`: the plan's numbers are right, nothing heavy is imported, and it writes nothing."""

import errno
import json
import shutil
import subprocess
import sys

import pytest

from cpt.checks import all_checks, plan
from cpt.cli import main as cli
from cpt.cli.check import run as check
from cpt.cli.main import parsed
from cpt.errors import RecipeErrors
from cpt.recipe import load
from helpers.recipes import recipe, write_recipe


def told(content: dict, folder) -> str:
    made = load(write_recipe(folder / "recipe.yaml", content))
    return plan.describe(made, folder / "run", all_checks.check(made, folder / "run"))


def test_the_plan(tmp_path):
    text = told(recipe("sft", "rlvr"), tmp_path)
    assert "01 reverse: procedural rows: 200 train, 20 eval; scored by exact" in text
    assert "sft: 10 steps of 8 rows" in text
    assert "rlvr: 10 steps of 16 completions, 4 rollouts a prompt" in text
    assert "at 3 points (before training, and after each task): 40 questions on 2 tasks, greedy" in text
    assert not (tmp_path / "run").exists()


def test_epochs_are_counted(tmp_path):
    content = recipe("sft", tasks=("reverse",))
    args = content["stream"][0]["stages"][0]["args"]
    del args["max_steps"]
    args["num_train_epochs"] = 2
    assert "sft: 50 steps of 8 rows" in told(content, tmp_path)  # 200 rows, 25 steps an epoch


def test_a_stage_with_too_few_prompts_for_one_step(tmp_path):
    content = recipe("rlvr", tasks=("reverse",))
    content["stream"][0]["data"]["train"] = 3
    with pytest.raises(
        RecipeErrors, match=r"stream\.reverse\.stages\.0: 3 training rows are fewer than the 4 prompts of"
    ):
        told(content, tmp_path)
    content["stream"][0]["data"]["train"] = 4
    told(content, tmp_path)
    rows = [{"prompt": f"reverse{a}bcde=", "answer": f"edcb{a}"} for a in "afghijklmn"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content["stream"][0]["data"] = {"source": "jsonl", "train": "rows.jsonl", "eval": 9}
    with pytest.raises(RecipeErrors, match="1 training rows are fewer than the 4 prompts"):
        told(content, tmp_path)


@pytest.mark.parametrize(
    "command", [["--help"], ["check", "quickstart"], ["check", "--help"], ["schema"], ["--version"]]
)
def test_nothing_heavy_is_imported(command, tmp_path):
    """What answers in under half a second must not wait for torch."""
    code = (
        "import sys; from cpt.cli.main import main\n"
        f"try: main({command!r})\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "print(heavy, file=sys.stderr); sys.exit(code or bool(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_check_asks_trl_of_what_is_not_checked_here(cpt, tmp_path):
    content = recipe("rlvr")
    content["stream"][0]["stages"][0]["args"]["dataloader_prefetch_factor"] = 2
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("check", file) == 2
    assert (
        cpt.output.count(".stages.0.args: GRPOConfig refuses: ") == 2 and "Traceback" not in cpt.output
    )  # both tasks'


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["eval"], ["report"], ["schema"]])
def test_help_teaches(cpt, command):
    assert cpt(*command, "--help") == 0
    assert "usage: cpt" in cpt.output and len(cpt.output.splitlines()) > 5


@pytest.mark.parametrize(
    "data, part",
    [
        (
            {"source": "reasoning_gym", "name": "chain_sums"},
            "data.train: reasoning_gym has no data set 'chain_sums'; did you mean chain_sum?",
        ),
        (
            {"source": "reasoning_gym", "name": "chain_sum", "config": {"max_term": 3}},
            "data.train: reasoning_gym chain_sum has no config field 'max_term' that can be set; did you mean max_terms?",
        ),
        (
            {"source": "reasoning_gym", "name": "chain_sum", "config": {"min_terms": 9, "max_terms": 2}},
            "data.train: reasoning_gym chain_sum refuses its config",
        ),
        (
            {"source": "procedural", "name": "reverse", "length": 2, "train": 90},
            "data.train: procedural: 90 train rows were asked for, but only",
        ),
        (
            {"source": "jsonl", "train": "rows.jsonl", "eval": 1, "columns": {"prompt": "questoin", "answr": "b"}},
            "data.columns.prompt: FOLDER/rows.jsonl: no column 'questoin' (for prompt); did you mean question?; there are: "
            "question, b\nrecipe.yaml:5: stream.reverse.data.columns.answr: FOLDER/rows.jsonl: columns: rows have no field "
            "'answr'; did you mean answer?",
        ),
        (
            {"source": "jsonl", "eval": 1},
            "data.train: no rows; every task needs rows to train on and to evaluate\nrecipe.yaml:5: "
            "stream.reverse.data.eval: rows can only be held out of `train`, and there is none: name a file of "
            "evaluation rows",
        ),
        (
            {"source": "jsonl", "train": "rows.jsonl", "eval": 1},
            "data.train: FOLDER/rows.jsonl: no column prompt or messages; there are: question, b",
        ),
    ],
)
def test_what_only_the_data_show_has_its_place_too(data, part, tmp_path):
    """Each with the recipe's file and the line of its key."""
    (tmp_path / "rows.jsonl").write_text('{"question": "a"}\n{"question": "c", "b": "d"}\n')
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "name: mine\nmodel: {path: tiny}\nstream:\n  - task: reverse\n"
        f"    data: {json.dumps(data)}\n    reward: exact\n    stages: [{{kind: rlvr, args: {{max_steps: 1}}}}]\n"
    )
    with pytest.raises(RecipeErrors) as caught:
        check(parsed(["check", str(file)]))
    text = str(caught.value).replace(f"{tmp_path}/recipe.yaml", "recipe.yaml").replace(str(tmp_path), "FOLDER")
    assert text.startswith(f"recipe.yaml:5: stream.reverse.{part}"), text


def halved(tiny_folder, folder):
    """The built-in toy model with its weights in bfloat16."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: each.to(torch.bfloat16) for name, each in weights.items()}, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize(
    "dtype, strategies, points",
    [
        ("float32", [], "about 3.65 MB for 3 points, and up to 11.7 MB"),  # 0.7 of the base, 1.5 of each task
        ("bfloat16", [], "about 2.19 MB for 3 points, and up to 5.84 MB"),
        ("auto", [], "about 3.65 MB for 3 points, and up to 11.7 MB"),  # its config says float32
        (
            "bfloat16",
            [{"kind": "ema"}],
            "about 6.57 MB for 3 points, and up to 8.76 MB",
        ),  # and an average of float32, served
        ("float32", [{"kind": "stochastic-restore"}], "about 6.57 MB for 3 points, and up to 14.6 MB"),
    ],
)
def test_the_disk_is_that_of_what_is_saved(dtype, strategies, points, tmp_path, tiny_folder):
    """Measured on runs of these recipes: 3.67, 2.21, 3.67, 6.61 and 6.60 MB of points."""
    content = recipe("sft") | {"model": {"path": halved(tiny_folder, tmp_path / "model"), "dtype": dtype}}
    assert f"disk      {points} while a stage runs" in told(content | {"strategies": strategies}, tmp_path)
    (tmp_path / "model" / "model.safetensors").write_text("junk")
    broken = load(write_recipe(tmp_path / "recipe.yaml", content))
    assert "disk      unknown until the model is on this machine" in plan.describe(broken, tmp_path / "run")


def test_a_file_that_may_not_be_read(monkeypatch, capsys):
    def check(asked):
        raise PermissionError(errno.EACCES, "Permission denied", "mine.py")

    monkeypatch.setitem(cli.COMMANDS, "check", check)
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "quickstart"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "cpt: mine.py: Permission denied: change its permissions, or name another\n"


@pytest.mark.parametrize(
    "words",
    [
        ["check", "quickstart", "--out", "x" * 300],
        ["run", "quickstart", "--out", "x" * 300],
        ["eval", "x" * 300, "--suite", "general"],
        ["merge", "x" * 300, "--method", "linear", "--out", "new"],
        ["report", "x" * 300],
        ["check", "quickstart", f"model.path={'x' * 300}"],
    ],
)
def test_a_name_that_is_too_long(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cpt: ") and len(line) < 600
