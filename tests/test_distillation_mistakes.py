"""Self-distillation and distillation: teachers, rows and words that cannot be used are named in one line; the plan."""

import json
import shutil
from pathlib import Path

import pytest

from cpt.checks import plan
from cpt.recipe import load
from helpers.distillation import KINDS, LORA, small
from helpers.recipes import recipe, write_recipe
from helpers.same_end import logged

# -- teachers of distill ---------------------------------------------------------------------------------------------------


def test_defaults_need_not_name_the_teacher(tmp_path):
    content = small("distill") | {"defaults": {"distill": {"direction": "forward"}}}
    assert load(write_recipe(tmp_path / "recipe.yaml", content)).stream[0].stages[0].direction == "forward"


@pytest.mark.slow
def test_a_teacher_of_another_run(cpt, tmp_path):
    """A point of a run, of all weights or an adapter, teaches what that run learnt."""
    (tmp_path / "made").mkdir()
    for name, beside in (("all", {}), ("lora", LORA)):
        content = recipe("sft", tasks=("reverse",), evaluate=4) | beside
        out = tmp_path / name
        assert cpt("run", write_recipe(tmp_path / f"{name}.yaml", content), "--out", out, "--quiet") == 0, cpt.output
        file = write_recipe(tmp_path / "recipe.yaml", small("distill", {"max_steps": 2}, teacher=str(out / "final")))
        assert cpt("run", file, "--out", tmp_path / "made" / name, "--quiet") == 0, cpt.output
        assert logged(tmp_path / "made" / name)[0]["loss"] > 1e-4, "a teacher that is not the student"


def test_a_teacher_of_other_tokens(cpt, tmp_path):
    from transformers import AutoTokenizer

    from cpt import tiny

    teachers = {"48 and 47 tokens": tmp_path / "tokens", "48 rows of embeddings and the student 47": tmp_path / "rows"}
    for folder in teachers.values():
        shutil.copytree(tiny.path(), folder)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokens")
    tokenizer.add_tokens(["zzz"])
    tokenizer.save_pretrained(tmp_path / "tokens")
    config = tmp_path / "rows" / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 47', '"vocab_size": 48'))
    for said, folder in (teachers | {"neither a local folder nor available from the hub": "nobody/nothing"}).items():
        file = write_recipe(tmp_path / "recipe.yaml", small("distill", teacher=str(folder)))
        assert cpt("run", file, "--out", tmp_path / "run") == 2
        assert "stream.reverse.stages.0.teacher: " in cpt.output and said in cpt.output
        assert "Traceback" not in cpt.output


# -- mistakes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "beside", "args", "said"),
    [
        (KINDS[0], {"alpha": 0.3}, {}, "alpha is an option of jsd, not of forward: remove it"),
        (KINDS[1], {"alpha": 0.3}, {}, "alpha is an option of jsd, not of reverse: remove it"),
        (KINDS[0], {"tail": True}, {}, "tail is what top_k leaves out: give top_k, or remove tail"),
        (KINDS[0], {"ema_rate": 0.0, "sync_every": 2}, {}, "ema_rate 0 keeps the teacher unchanged"),
        (KINDS[0], {"template": "{prompt}"}, {}, "template has no {demonstration}"),
        (KINDS[0], {"template": "{demonstration}{promt}"}, {}, "{prompt} and {demonstration}, not {promt}"),
        (KINDS[0], {}, {"teacher_update_rate": 0.1}, "use `ema_rate` beside `args`"),
        (KINDS[0], {}, {"num_generations": 3}, "num_generations: (3) must divide the batch"),
        (KINDS[1], {}, {"beta": 0.5}, "use `direction` (and `alpha`) beside `args`"),
        (KINDS[1], {}, {"num_generations": 2}, "DistillationConfig has no such argument"),
        (KINDS[1], {"teacher_revision": "main"}, {}, "teacher_revision belongs to a repository on the hub"),
        (KINDS[1], {"teacher": "/nowhere"}, {}, "stages.0.teacher: no folder /nowhere; give a model folder"),
    ],
)
def test_mistakes(cpt, tmp_path, kind, beside, args, said):
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", small(kind, args, **beside))) == 2
    assert said in cpt.output and "Traceback" not in cpt.output


def of_rows(folder: Path, rows: list[dict], **beside) -> Path:
    for split, part in (("train", rows), ("eval", [{"prompt": "reverseabcdf=", "answer": "fdcba"}])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    content = small("self-distillation", {"per_device_train_batch_size": 1}, **beside)
    content["stream"][0]["data"] = {"source": "jsonl"} | {name: f"{name}.jsonl" for name in ("train", "eval")}
    return write_recipe(folder / "recipe.yaml", content)


ROW = {"prompt": "reverseabcde=", "answer": "edcba", "demonstration": "edcba"}


@pytest.mark.parametrize(
    ("row", "beside", "said"),
    [
        ({"demonstration": None}, {}, "a self-distillation stage needs a `prompt` and a demonstration"),
        ({}, {"template": "{prompt}\n{demonstration}"}, "the tokenizer cannot encode '\\n'"),
        (
            {"demonstration": "a" * 120},
            {},
            "has a teacher's prompt of 121 tokens, and with an answer of up to 12",
        ),
        (
            {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            {},
            "its prompt ends with a message of the role assistant",
        ),
        ({}, {"top_k": 48}, "stream.reverse.stages.0.top_k: (48) is more than the model's vocabulary (47)"),
    ],
)
def test_rows_that_cannot_teach(cpt, tmp_path, row, beside, said):
    rows = [{key: value for key, value in (ROW | row).items() if value is not None}]
    assert cpt("run", of_rows(tmp_path, rows, **beside), "--out", tmp_path / "run") == 2
    assert said in cpt.output and "Traceback" not in cpt.output
    assert ("row reverse/train/0 (train.jsonl:1)" in cpt.output) == ("top_k" not in beside)


def test_the_template_takes_texts_as_they_are():
    from cpt.data.rows import in_context

    row = {"prompt": "a {demonstration} b", "demonstration": "{prompt} c"}
    assert in_context(row, "{prompt}|{demonstration}|{prompt}") == "a {demonstration} b|{prompt} c|a {demonstration} b"
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    asked = in_context(
        {"prompt": chat, "completion": [{"role": "assistant", "content": "d"}]}, "{prompt}: {demonstration}"
    )
    assert asked == [chat[0], {"role": "user", "content": "q: d"}]


def test_the_plan(tmp_path):
    made = load(write_recipe(tmp_path / "r.yaml", small("self-distillation", direction="jsd", top_k=20, sync_every=4)))
    told = plan.describe(made, tmp_path / "run")
    assert (
        "10 steps of 8 completions, 1 rollout a prompt, lr 0.001, JSD (0.5 the teacher's) over the student's top 20"
        in told
    )
    assert "by an average of its weights at rate 0.05 every 4 steps (a second copy of them)" in told
    made = load(write_recipe(tmp_path / "r.yaml", small("distill")))
    assert "lr 0.001, reverse KL to base (whose weights stay in memory)" in plan.describe(made, tmp_path / "run")
