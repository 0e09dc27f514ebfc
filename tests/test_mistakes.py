"""A user's mistakes on the command line: one line that says what, where and what to do; exit code 2; never a traceback."""

import json
import os
import re
import shutil
import subprocess
import time

import pytest

from helpers.recipes import plain_rows, recipe, rows_task, write_recipe


def chat(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def model_without(folder, tiny_folder, *files: str):
    """A copy of the built-in toy model that lacks some files."""
    shutil.copytree(tiny_folder, folder / "model")
    for name in (*files, "DONE"):
        (folder / "model" / name).unlink(missing_ok=True)
    return str(folder / "model")


def no_tokenizer(folder, tiny_folder):
    content = recipe("rlvr")
    content["model"]["path"] = model_without(folder, tiny_folder, "tokenizer.json", "tokenizer_config.json")
    return content


def no_template(folder, tiny_folder):
    content = recipe("rlvr")
    content["model"]["path"] = model_without(folder, tiny_folder, "chat_template.jinja")
    return content


def pickled_weights(folder, tiny_folder):
    content = recipe("rlvr")
    content["model"]["path"] = model_without(folder, tiny_folder, "model.safetensors")
    return content


def no_eos(folder, tiny_folder):
    content = recipe("rlvr")
    content["model"]["path"] = path = model_without(folder, tiny_folder)
    file = folder / "model" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("eos_token")
    file.write_text(json.dumps(settings))
    return content | {"model": {"path": path}}


def with_file(folder, tiny_folder, name: str, text: str):
    """A recipe on a copy of the built-in toy model in which one file is another."""
    content = recipe("rlvr")
    content["model"]["path"] = model_without(folder, tiny_folder)
    (folder / "model" / name).write_text(text)
    return content


HELD = "{task: copy, data: {source: procedural, name: copy, eval: 4}, reward: exact, metric: exact}\n"


def with_suite(folder, text: str):
    content = recipe("rlvr")
    (folder / "held.yaml").write_text(text)
    content["evaluation"]["suites"] = ["held.yaml"]
    return content


def changed(path: str, value, **of_the_task):
    """A recipe with one value changed at a dotted path."""

    def make(folder, tiny_folder):
        content = here = recipe("rlvr")
        content["stream"][0] |= of_the_task
        *steps, last = path.split(".")
        for step in steps:
            here = here[int(step)] if isinstance(here, list) else here[step]
        here[last] = value
        return content

    return make


def args(kind="rlvr", **values):
    """A recipe of one task whose stage has these arguments."""

    def make(folder, tiny_folder):
        content = recipe(kind, tasks=("reverse",), evaluate=2)
        content["stream"][0]["stages"][0]["args"] |= values
        return content

    return make


MISTAKES = {
    "missing file": (
        changed("stream.0.data", {"source": "jsonl", "train": "gone.jsonl", "eval": 1}),
        ["stream.reverse.data.train", "gone.jsonl: no such file"],
    ),
    "broken line": (
        lambda folder, _: broken(rows_task(folder, plain_rows(4), plain_rows(2, 9)), folder),
        ["train.jsonl:5: not valid JSON"],
    ),
    "missing column": (
        lambda folder, _: rows_task(folder, [{"question": "reverseabc="}], plain_rows(2, 9)),
        ["train.jsonl: no column prompt or messages; there are: question"],
    ),
    "empty data": (
        lambda folder, _: rows_task(folder, [], plain_rows(2, 9)),
        ["stream.reverse.data.train", "train.jsonl: holds no rows"],
    ),
    "zero evaluation rows": (
        changed("stream.0.data.eval", 0),
        ["stream.reverse.data.eval", "no rows; every task needs rows to train on and to evaluate"],
    ),
    "no answer to compare with": (
        lambda folder, _: rows_task(folder, plain_rows(4), [{"prompt": "reversejjjjj="}]),
        ["row reverse/eval/0 (eval.jsonl:1) has no answer", "the verifier exact needs it"],
    ),
    "a leak": (
        lambda folder, _: rows_task(folder, plain_rows(4), plain_rows(2, 3)),
        ["1 row(s) have the same prompt as a row of another split", "reverse/train/3 = reverse/eval/0"],
    ),
    "prompt beyond the context": (
        lambda folder, _: rows_task(folder, [{"prompt": "copy" + "a" * 130 + "=", "answer": "a"}], plain_rows(2, 9)),
        [
            "row reverse/train/0 (train.jsonl:1) has a prompt of 132 tokens",
            "the model's context of 128",
            "shorten the row",
        ],
    ),
    "a letter that cannot be spelt": (
        lambda folder, _: rows_task(folder, [{"prompt": "copyZ=", "answer": "a"}], plain_rows(2, 9)),
        ["row reverse/train/0 (train.jsonl:1): the tokenizer cannot encode 'Z' (character 5 of prompt 'copyZ=')"],
    ),
    "model folder without a tokenizer": (no_tokenizer, ["model.path", "has no tokenizer (tokenizer.json)"]),
    "tokenizer without a chat template": (
        no_template,
        ["rows are conversational", "has no chat template", "model.chat_template"],
    ),
    "model folder without safetensors": (pickled_weights, ["has no *.safetensors"]),
    "tokenizer without an end": (no_eos, ["has no end-of-sequence token"]),
    "no such model": (changed("model", {"path": "./nowhere"}), ["model.path: no folder", "or `tiny`"]),
    "no such model on the hub": (
        changed("model", {"path": "no/such-model"}),
        ["model.path: no/such-model is neither a local folder"],
    ),
    "no such template": (
        changed("model", {"path": "tiny", "chat_template": "gone.jinja"}),
        ["model.chat_template: no file", "gone.jinja"],
    ),
    "what only TRL finds": (
        args(dataloader_prefetch_factor=2),
        ["stream.reverse.stages.0.args: GRPOConfig refuses: "],
    ),
    "an optimiser that is not installed": (
        args(optim="adamw_8bit"),
        ["stream.reverse.stages.0.args.optim: You need to install `bitsandbytes`"],
    ),
    "a schedule that lacks its words": (
        args(lr_scheduler_type="cosine_with_min_lr"),
        ["stream.reverse.stages.0.args.lr_scheduler_kwargs: One of min_lr or min_lr_rate should be set"],
    ),
    "a kernel that is not installed": (
        args(use_liger_kernel=True),
        ["args.use_liger_kernel: needs the package liger-kernel: pip install liger-kernel, or remove it"],
    ),
    "rows cut to nothing": (
        args("sft", max_length=4),
        ["row reverse/train/0", "args.max_length of stream.reverse.stages.0 is 4 (200 of 200 rows are too long)"],
    ),
    "rows that fill no batch": (
        args("sft", per_device_train_batch_size=256, dataloader_drop_last=True),
        ["stream.reverse.stages.0: training ended after 0 of 10 steps: 200 rows do not fill a batch"],
    ),
    "a verifier that is not there": (
        changed("stream.0.reward", {"kind": "function", "path": "nowhere_at_all:judge"}, metric="exact"),
        ["stream.reverse.reward: no module nowhere_at_all"],
    ),
    "reasoning-gym's scorer for other rows": (
        changed("stream.0.reward", "reasoning_gym", metric="exact"),
        [
            "stream.reverse.data.train: row reverse/train/0 has no entry of reasoning-gym's",
            "use `source: reasoning_gym`",
        ],
    ),
    "an adapter that PEFT refuses": (
        changed("adapter", {"kind": "lora", "target_modules": ["nothing_like_it"]}),
        ["adapter: PEFT cannot add lora to this model", "nothing_like_it"],
    ),
    "no demonstrations for sft": (
        lambda folder, _: rows_task(folder, plain_rows(4), plain_rows(2, 9), kind="sft"),
        [
            "stream.reverse: row reverse/train/0 (train.jsonl:1) has answer, id, prompt; a sft stage needs a demonstration"
        ],
    ),
    "a suite's verifier that is not there": (
        lambda folder, _: with_suite(
            folder, "name: held\ntasks:\n- " + HELD.replace("reward: exact", 'reward: "nowhere_at_all:f"')
        ),
        ["suite held: tasks.copy.reward: no module nowhere_at_all"],
    ),
    "broken weights": (
        lambda folder, tiny: with_file(folder, tiny, "model.safetensors", "junk"),
        ["model: the file of weights model.safetensors cannot be loaded (SafetensorError"],
    ),
    "a broken config": (
        lambda folder, tiny: with_file(folder, tiny, "config.json", "{"),
        ["model: the config (config.json) cannot be loaded", "not a valid JSON file"],
    ),
    "a broken tokenizer": (
        lambda folder, tiny: with_file(folder, tiny, "tokenizer.json", "{}"),
        ["the tokenizer cannot be loaded (KeyError"],
    ),
    "a config of more layers than there are weights": (
        lambda folder, tiny: with_file(
            folder,
            tiny,
            "config.json",
            (tiny / "config.json")
            .read_text()
            .replace('"num_hidden_layers": 3', '"num_hidden_layers": 4')
            .replace('"layer_types": [', '"layer_types": [ "full_attention",'),
        ),
        ["the weights lack 11 tensors that the config asks for (model.layers.3.", "random values would replace them"],
    ),
    "a tokenizer of another model": (
        lambda folder, tiny: with_file(
            folder,
            tiny,
            "config.json",
            re.sub(r'"vocab_size": \d+', '"vocab_size": 20', (tiny / "config.json").read_text()),
        ),
        ["its tokenizer writes ids up to ", "and the model knows 20", "they do not belong together"],
    ),
    "weights that are not all there": (
        lambda folder, tiny: with_file(
            folder, tiny, "model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}'
        ),
        ["lacks b.safetensors, which its index names"],
    ),
    "an unknown skill": (changed("stream.1.data.name", "ceasar"), ["no skill 'ceasar'; did you mean caesar?"]),
}


def broken(content: dict, folder) -> dict:
    with (folder / "train.jsonl").open("a") as stream:
        stream.write('{"prompt": \n')
    return content


def assert_one_line(output: str, *parts: str) -> None:
    lines = [line for line in output.splitlines() if line.startswith("cpt: ")]
    assert "Traceback" not in output, output
    assert len(lines) == 1, output
    for part in parts:
        assert part in lines[0], output


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(cpt, tiny_folder, tmp_path, name):
    make, parts = MISTAKES[name]
    file = write_recipe(tmp_path / "recipe.yaml", make(tmp_path, tiny_folder))
    assert cpt("run", file, "--out", tmp_path / "run") == 2, cpt.output
    assert_one_line(cpt.output, *parts)


@pytest.fixture
def short(tmp_path):
    content = recipe("sft", tasks=("reverse",), evaluate=4)
    content["stream"][0]["stages"][0]["args"]["max_steps"] = 4
    return write_recipe(tmp_path / "short.yaml", content)


def test_an_output_folder_that_cannot_be_written(cpt, tmp_path, short):
    (tmp_path / "file").write_text("not a folder")
    assert cpt("run", short, "--out", tmp_path / "file" / "run") == 2
    assert_one_line(cpt.output, "cannot be written; choose another run directory")
    assert cpt("run", short, "--out", "/proc/run") == 2
    assert_one_line(cpt.output, "/proc/run: the run directory cannot be written")


def test_an_output_folder_with_other_things(cpt, tmp_path, short):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert cpt("run", short, "--out", tmp_path / "run") == 2
    assert_one_line(cpt.output, "is not empty and holds no run", "give a new folder with --out")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "precious"


def test_two_processes_on_one_run(cpt, tmp_path, short):
    """The second is refused while the first lives, also where the first is stopped; and let in when it is gone."""
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock.json").write_text(json.dumps({"pid": os.getpid(), "host": "here"}))
    with FileLock(tmp_path / "run" / ".lock"):
        assert cpt("run", short, "--out", tmp_path / "run") == 2
        assert_one_line(cpt.output, f"process {os.getpid()} on here is writing this run")
    assert cpt("run", short, "--out", tmp_path / "run", "--quiet") == 0, cpt.output


def test_rows_that_changed_since_the_run_began(cpt, tmp_path):
    content = rows_task(tmp_path, plain_rows(20), plain_rows(4, 50))
    content["stream"][0]["stages"][0]["args"]["max_steps"] = 2
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run", "--quiet") == 0, cpt.output
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write(json.dumps(plain_rows(1, 30)[0]) + "\n")
    assert cpt("run", file, "--out", tmp_path / "run") == 2
    assert_one_line(cpt.output, "the rows of reverse are not those that this run began with")


def test_a_run_goes_on_with_as_many_processes_as_it_began_with(cpt, tmp_path, short):
    out = tmp_path / "run"
    at = {"place": "cpt.stages.sft.run", "call": 1}
    assert cpt("run", short, "--out", out, "--quiet", at=at) == -9, cpt.output
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"world_size": 2}))
    assert cpt("run", short, "--out", out) == 2
    assert_one_line(cpt.output, "began with 2 process(es), and its batches would be different with 1: start 2, or give")
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert cpt("run", short, "--out", out, "--quiet") == 0, cpt.output
    (out / "manifest.json").write_text(json.dumps(manifest | {"world_size": 2}))
    assert cpt("run", short, "--out", out, "--quiet") == 0, cpt.output  # nothing is left to train


def mounted(folder, size: str) -> bool:
    """A file system of its own that can be filled; False where this user may not mount."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    return done.returncode == 0


def test_a_full_disk_loses_nothing_committed(cpt, tmp_path):
    content = recipe("sft", evaluate=4)
    for task in content["stream"]:
        task["stages"][0]["args"] |= {"max_steps": 4, "save_steps": 2}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    small = tmp_path / "small"
    if not mounted(small, "6m"):
        pytest.skip("needs the right to mount a small file system")
    try:
        assert cpt("run", file, "--out", small / "run") == 1, cpt.output
        assert_one_line(
            cpt.output, "cannot be written: the disk is full (", " are needed, ", "what was committed is kept"
        )
        assert "/run will need about 16" in cpt.output and " are free: make room, or choose another place" in cpt.output
        assert (small / "run" / "points" / "00-base" / "DONE").is_file()
        subprocess.run(["mount", "-o", "remount,size=60m", str(small)], check=True)
        assert cpt("run", file, "--out", small / "run", "--quiet") == 0, cpt.output
        assert cpt("run", file, "--out", tmp_path / "elsewhere", "--quiet") == 0, cpt.output
        for point in ("01-reverse", "02-caesar"):
            weights = [
                folder / "points" / point / "model" / "model.safetensors"
                for folder in (small / "run", tmp_path / "elsewhere")
            ]
            assert weights[0].read_bytes() == weights[1].read_bytes()
    finally:
        time.sleep(0.1)
        subprocess.run(["umount", str(small)], check=False)


def test_a_run_refused_before_its_first_step_leaves_the_place_free(cpt, tmp_path):
    content, out = (
        rows_task(tmp_path, [{"prompt": "reverse§=", "answer": "a"}] * 20, plain_rows(4), "rlvr"),
        tmp_path / "run",
    )
    content["stream"][0]["stages"][0]["args"] |= {"max_steps": 1}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", out) == 2 and "cannot encode" in cpt.output, cpt.output
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain_rows(20, first=10)))
    assert cpt("run", file, "seed=7", "stream.0.reward=exact", "--out", out, "--quiet") == 0, cpt.output
    assert json.loads((out / "manifest.json").read_text())["seed"] == 7
    assert cpt("run", file, "seed=8", "--out", out) == 2, cpt.output
    assert "holds a run of another recipe: seed: 7 there, 8 here" in cpt.output


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["run", "quikstart"], "no recipe of that name; did you mean quickstart?"),
        (["check", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["eval", "nowhere", "--suite", "general"], "is neither a run directory"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_names_that_lead_nowhere(cpt, arguments, part):
    assert cpt(*arguments) == 2, cpt.output
    assert_one_line(cpt.output, part)
