"""`cpt merge`: folders in, one folder out, whole or not at all; each mistake is one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import types

import pytest
import torch
from safetensors.torch import load_file, save_file

from cpt.errors import Interrupted, UserError
from cpt.merge_methods import METHODS
from cpt.merging import plan
from cpt.merging.merge import merge
from cpt.merging.method import Chunk, merge_tensor
from cpt.merging.methods import make_method
from cpt.merging.reading import Weights, read_header
from cpt.merging.writing import Shape, Writer
from helpers.merge_command import CONFIG, command, model, tensors
from helpers.recipes import write_recipe


@pytest.fixture
def four(tmp_path):
    """Three models and a base."""
    names = ("a", "b", "c", "base")
    return types.SimpleNamespace(**{name: model(tmp_path / name, tensors(seed)) for seed, name in enumerate(names)})


# -- the merge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_streamed_by_chunks_it_is_the_function_of_whole_tensors(name, four, tmp_path, small_chunks):
    kind = METHODS[name]
    models = [four.a, four.b, four.c][: kind.most or 3]
    base = four.base if kind.needs_base else None
    fishers = []
    for number, _ in enumerate(models if kind.needs_fisher else ()):
        diagonal = {key: each.abs() for key, each in tensors(10 + number).items() if each.is_floating_point()}
        fishers.append(tmp_path / f"fisher{number}.safetensors")
        save_file(diagonal, fishers[-1])
    for threads in (1, 3):
        merge(name, models, base, (), tmp_path / f"out{threads}", fishers=fishers, threads=threads)
    got, again = (load_file(tmp_path / f"out{threads}" / "model.safetensors") for threads in (1, 3))
    sources = [load_file(folder / "model.safetensors") for folder in models]
    start, diagonals = load_file(four.base / "model.safetensors"), [load_file(file) for file in fishers]
    assert got.keys() == start.keys()
    for key, tensor in got.items():
        assert torch.equal(tensor, again[key]), f"{key} depends on the threads"
        if not tensor.is_floating_point():
            assert torch.equal(tensor, start[key])
        elif tensor.numel():
            chunk = Chunk(key, 0, start[key], [s[key] for s in sources], [d[key] for d in diagonals])
            expected = merge_tensor(make_method(name, len(models)), chunk)
            torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-6)


def test_a_model_with_itself_is_itself_and_loads(tiny_folder, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    code, said = command(tiny_folder, tiny_folder, "--method", "linear", "--out", tmp_path / "out", capsys=capsys)
    assert code == 0, said
    before = AutoModelForCausalLM.from_pretrained(tiny_folder).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("reverseabcde=") == AutoTokenizer.from_pretrained(
        tiny_folder
    )("reverseabcde=")
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["weights"] == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_any_dtype_in_and_out(dtype, tmp_path):
    one, two = (model(tmp_path / name, tensors(seed, dtype)) for seed, name in enumerate("ab"))
    merge("linear", [one, two], None, (1, 0), tmp_path / "out")
    assert all(torch.equal(x, y) for x, y in zip(*map(listed, (one, tmp_path / "out")), strict=True))
    merge("linear", [one, two], None, (1, 3), tmp_path / "wide", dtype="float32")
    mean = [(a.double() + 3 * b.double()) / 4 for a, b in zip(listed(one), listed(two), strict=True)]
    for got, wanted in zip(listed(tmp_path / "wide"), mean, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=1e-6)
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"


def listed(folder) -> list[torch.Tensor]:
    return [tensor for _, tensor in sorted(load_file(folder / "model.safetensors").items())]


def test_what_float16_cannot_hold_is_refused(four, tmp_path):
    large = {name: tensor * 3e4 for name, tensor in tensors(1).items() if tensor.is_floating_point()}
    one = model(tmp_path / "large", large)
    with pytest.raises(UserError, match=r"beyond torch\.float16 \(65504\): write it with --dtype bfloat16"):
        merge("soup", [one, one], None, (), tmp_path / "out", dtype="float16")
    merge("soup", [one, one], None, (), tmp_path / "out", dtype="bfloat16")


def test_mixed_dtypes_give_each_tensor_the_first_models(four, tmp_path):
    model(tmp_path / "half", tensors(9, torch.bfloat16))
    merge("linear", [tmp_path / "half", four.a], None, (0, 1), tmp_path / "out")
    got, wanted = load_file(tmp_path / "out" / "model.safetensors"), tensors(0)
    assert all(torch.equal(tensor, wanted[name].to(tensor.dtype)) for name, tensor in got.items())
    assert got["model.norm.weight"].dtype == torch.bfloat16


def test_shards_with_an_index_read_and_written(four, tmp_path):
    merge("linear", [four.a, four.a], None, (), tmp_path / "out", shard_bytes=1300)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{n:05d}-of-00002.safetensors" for n in (1, 2)] or len(files) > 2
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors(0).values())
    merge("linear", [tmp_path / "out", four.a], None, (), tmp_path / "again")
    assert all(torch.equal(x, y) for x, y in zip(*map(listed, (four.a, tmp_path / "again")), strict=True))


def test_safetensors_reads_what_the_writer_wrote_out_of_order(tmp_path):
    shapes = {"b": Shape(torch.bfloat16, (3, 2)), "a": Shape(torch.int64, (2,)), "é": Shape(torch.bool, (5,))}
    values = {"b": torch.randn(3, 2).bfloat16(), "a": torch.tensor([7, -1]), "é": torch.tensor([1, 0, 0, 1, 1]).bool()}
    writer = Writer(tmp_path, shapes, 10**9)
    for name, value in values.items():
        half = value.numel() // 2
        writer.write(name, half * value.element_size(), value.reshape(-1)[half:])
        writer.write(name, 0, value.reshape(-1)[:half])
    writer.close()
    got = load_file(tmp_path / "model.safetensors")
    assert got.keys() == values.keys() and all(torch.equal(got[name], values[name]) for name in values)
    save_file(values, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    theirs, mine = (read_header(tmp_path / f"{stem}.safetensors") for stem in ("theirs", "model"))
    assert {n: (e.offset, e.dtype, e.shape) for n, e in theirs.items()} == {
        n: (e.offset, e.dtype, e.shape) for n, e in mine.items()
    }


def test_a_tied_head_is_read_from_the_embedding(four, tmp_path):
    tied = {name: tensor for name, tensor in tensors(7).items() if name != "lm_head.weight"}
    model(tmp_path / "tied", tied, tie_word_embeddings=True)
    merge("linear", [four.a, tmp_path / "tied"], None, (0, 1), tmp_path / "out")
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(got["lm_head.weight"], tied["model.embed_tokens.weight"])
    with pytest.raises(
        UserError, match="ties it to the embedding: the merge would lose it; name the one with the head"
    ):
        merge("linear", [tmp_path / "tied", four.a], None, (), tmp_path / "lost")
    # a tied head that was saved all the same is no tensor of its own
    model(
        tmp_path / "saved",
        tied | {"lm_head.weight": tied["model.embed_tokens.weight"].clone()},
        tie_word_embeddings=True,
    )
    merge("linear", [tmp_path / "saved", tmp_path / "tied"], None, (), tmp_path / "both")
    assert "lm_head.weight" not in load_file(tmp_path / "both" / "model.safetensors")


def test_a_run_is_its_last_point_and_a_point_is_its_served_model(four, tmp_path):
    from cpt.api.merging import folder_of
    from cpt.recipe import dump, load
    from cpt.rundir import RunDir, points_of

    recipe, warned = load("quickstart"), []
    run = RunDir(tmp_path / "run")
    run.points.mkdir(parents=True)
    write_recipe(run.path / "recipe.yaml", dump(recipe))
    with pytest.raises(UserError, match="no committed point; available: none yet"):
        folder_of(run.path, warned.append)
    first, second, *_ = points_of(recipe)
    run.commit(first, four.a, [])
    run.commit(second, four.b, [], served=four.c)
    assert (
        folder_of(run.path, warned.append)
        == folder_of(run.point(second), warned.append)
        == run.point(second) / "served"
    )
    assert folder_of(run.point(first), warned.append) == run.point(first) / "model"
    assert folder_of(four.a, warned.append) == four.a
    assert warned == []


# -- whole or not at all -------------------------------------------------------------------------------------------------


KILLED = """
import os, signal, sys
from pathlib import Path
from cpt.merging import stream
from cpt.merging.merge import merge
stream.CHUNK, stream.BLOCK, stream.SECONDS_BETWEEN_LOOKS = 64, 16, 0.0
def progress(done):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
merge("linear", [Path("a"), Path("b")], None, (), Path("out"), progress=progress)
"""


def test_killed_on_the_way_it_leaves_no_output_and_the_next_begins_again(four, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.partial").is_dir()
    merge("linear", [four.a, four.b], None, (1, 0), tmp_path / "out")
    assert all(torch.equal(x, y) for x, y in zip(*map(listed, (four.a, tmp_path / "out")), strict=True))
    assert not (tmp_path / ".out.partial").exists()


def test_a_stop_or_an_error_leaves_nothing(four, tmp_path):
    def check():
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        merge("linear", [four.a, four.b], None, (), tmp_path / "out", stop=types.SimpleNamespace(check=check))
    broken = tensors(1)
    broken["model.norm.weight"][3] = float("nan")
    with pytest.raises(UserError, match=r"model\.norm\.weight holds NaN or infinity"):
        merge("linear", [four.a, model(tmp_path / "nan", broken)], None, (), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()


MEMORY = """
import json, resource, sys
from pathlib import Path
import torch
from cpt.merging.merge import merge
for name in "ab":
    Path(name).mkdir()
    header = json.dumps({"w": {"dtype": "BF16", "shape": [60_000_000], "data_offsets": [0, 120_000_000]}}).encode()
    with open(f"{name}/model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 120_000_000)
    Path(name, "config.json").write_text('{"model_type": "qwen3"}')
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge("linear", [Path("a"), Path("b")], None, (), Path("out"), threads=2)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_is_buffers_not_tensors(tmp_path):
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60e6  # two tensors of 120 MB each were read, and one written
    shutil.rmtree(tmp_path / "out")


# -- the command line ----------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_and_writes_nothing(four, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    arguments = (four.a, four.b, "--method", "ties", "--base", four.base, "--density", 0.3, "--out", tmp_path / "out")
    code, said = command(*arguments, "--threads", 2, "--dry-run", capsys=capsys)
    assert code == 0 and sorted(tmp_path.rglob("*")) == before
    for words in ("ties (2306.01708): weights 1 1, density 0.3, scale 1.0", "5 merged (649 parameters), 1 copied"):
        assert words in said
    assert "in 3 passes" in said and "written: 2.64 kB in 1 file (float32, int64)" in said


def test_a_single_weight_is_the_first_ones_share(four, tmp_path, capsys):
    for method in ("wise", "linear"):
        out = tmp_path / method
        assert command(four.a, four.b, "--method", method, "--weight", 0.25, "--out", out, capsys=capsys)[0] == 0
        for got, a, b in zip(*map(listed, (out, four.a, four.b)), strict=True):
            if got.is_floating_point():
                torch.testing.assert_close(got, 0.25 * a + 0.75 * b)


def changed(folder, **config):
    (folder / "config.json").write_text(json.dumps(CONFIG | config))


def rewritten(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def linked(file):
    file.unlink()
    file.symlink_to("nowhere")


MISTAKES = {
    "no such folder": (lambda f: shutil.rmtree(f.b), (), "no such folder; give a model folder"),
    "pickled": (
        lambda f: (f.b / "model.safetensors").rename(f.b / "pytorch_model.bin"),
        (),
        "no *.safetensors (only pytorch_model.bin, which is not read)",
    ),
    "cut short": (lambda f: os.truncate(f.b / "model.safetensors", 2000), (), "cannot be read as safetensors"),
    "no config": (lambda f: (f.b / "config.json").unlink(), (), "no config.json"),
    "another architecture": (lambda f: changed(f.b, model_type="llama"), (), "is a qwen3, "),
    "quantised": (lambda f: changed(f.b, quantization_config={"bits": 4}), (), "is quantised"),
    "vocabulary": (
        lambda f: rewritten(f.b, lambda w: w.update({"lm_head.weight": torch.zeros(41, 8)})),
        (),
        "lm_head.weight: 40 x 8 in",
    ),
    "shape": (
        lambda f: rewritten(f.b, lambda w: w.update({"model.norm.weight": torch.zeros(9)})),
        (),
        "model.norm.weight: 8 in",
    ),
    "lacks": (lambda f: rewritten(f.b, lambda w: w.pop("scale")), (), "lacks scale: only models with the same tensors"),
    "more": (
        lambda f: rewritten(f.b, lambda w: w.update(more=torch.zeros(1))),
        (),
        "lacks more: only models with the same",
    ),
    "no head": (
        lambda f: rewritten(f.b, lambda w: [w.pop("lm_head.weight"), w.pop("model.embed_tokens.weight")]),
        (),
        "has no lm",
    ),
    "integers": (
        lambda f: rewritten(f.b, lambda w: w.update(position_ids=torch.ones(5, dtype=torch.int64))),
        (),
        "position_ids: integers that differ",
    ),
    "infinity": (
        lambda f: rewritten(f.b, lambda w: w.update(scale=torch.tensor(float("inf")))),
        (),
        "scale holds NaN or infinity",
    ),
    "not empty": (lambda f: shutil.copytree(f.a, f.a.parent / "out"), (), "is not empty; give a new folder"),
    "inside": (lambda f: None, ("--out", "a/merged"), "one is inside the other"),
    "beneath a file": (lambda f: (f.a.parent / "file").touch(), ("--out", "file/out"), "is a file; give a folder"),
    "a link to nowhere": (lambda f: linked(f.b / "model.safetensors"), (), "cannot be read as safetensors"),
    "negative fisher": (lambda f: None, ("--method", "fisher", "--fisher", "a", "b"), ": fisher: a negative value"),
    "no base": (lambda f: None, ("--method", "ties"), "name it with --base"),
    "a base too many": (lambda f: None, ("--base", "base"), "linear uses no base"),
    "no fisher": (lambda f: None, ("--method", "fisher"), "give one for each, in their order"),
    "shard size": (lambda f: None, ("--shard-size", "5"), "give a size above 0 with its unit"),
    "dtype": (lambda f: None, ("--dtype", "float31"), "no float31; there are float32"),
    "threads": (lambda f: None, ("--threads", "0"), "at least 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, four, tmp_path, monkeypatch, capsys):
    spoil, more, words = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    spoil(four)
    code, said = command("a", "b", "--method", "linear", "--out", "out", "--quiet", *more, capsys=capsys)
    assert code == 2 and said.count("\n") == 1 and words in said, said
    assert mistake == "not empty" or not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_a_disk_too_small_is_said_before_anything_is_written(four, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "room", lambda place: 1000)
    with pytest.raises(UserError, match=r"--out: 6\d.\d kB will be written, and .* has 1 kB free"):
        merge("linear", [four.a, four.b], None, (), tmp_path / "out")
    assert not (tmp_path / ".out.partial").exists()


def test_another_tokenizer_is_warned_of(four, tmp_path, capsys):
    for folder, text in ((four.a, "{}"), (four.b, "{ }")):
        (folder / "tokenizer.json").write_text(text)
    code, said = command(four.a, four.b, "--method", "soup", "--out", tmp_path / "out", "--quiet", capsys=capsys)
    assert code == 0 and "warning" in said and "is not that of" in said
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


def test_two_at_once_do_not_write_one_folder(four, tmp_path):
    def second(done):
        with pytest.raises(UserError, match="another process is writing it"):
            merge("linear", [four.a, four.b], None, (), tmp_path / "out")

    merge("linear", [four.a, four.b], None, (), tmp_path / "out", progress=second)


def test_reading_is_checked_against_the_file(four):
    with Weights(four.a) as weights:
        os.truncate(four.a / "model.safetensors", 100)
        with pytest.raises(UserError, match="ends inside"):
            weights.read("position_ids", 0, torch.empty(40, dtype=torch.uint8))
