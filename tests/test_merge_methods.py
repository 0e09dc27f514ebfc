"""Merging methods by numbers worked out with numpy: TIES over the whole model, and small tensors that were trained gently."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cpt.errors import UserError
from cpt.merging import della, slerp, stock
from cpt.merging.merge import merge
from cpt.merging.methods import make_method
from helpers.merge_command import command, model
from helpers.recipes import mistakes, short

# -- TIES: the share is of the whole model ---------------------------------------------------------------------------------

SIZES = {"a.weight": ((30, 8), 1.0), "b.weight": ((50,), 0.02), "c.weight": ((), 3.0), "d.weight": ((0, 4), 1.0)}
SIZES |= {"e.weight": ((7, 3, 2), 0.3)}  # tensors that change much and hardly


def folders(tmp_path, dtypes: dict[str, torch.dtype] | None = None) -> tuple:
    """A base and three models whose tensors change by different amounts."""
    made = []
    for seed, name in enumerate(("base", "one", "two", "three")):
        generator = torch.Generator().manual_seed(seed)
        weights = {}
        for key, (shape, scale) in SIZES.items():
            start = torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
            change = scale * torch.randn(shape, generator=generator, dtype=torch.float64) * (seed > 0)
            weights[key] = (start + change).to((dtypes or {}).get(key, torch.float32))
        weights["position_ids"] = torch.arange(5)
        made.append(model(tmp_path / name, weights))
    return tuple(made)


def ties_by_sorting(base: dict, models: list[dict], density: float) -> dict[str, np.ndarray]:
    """Flatten each task vector, sort, keep the largest share, elect signs, average those that agree (2306.01708)."""
    names = [name for name in sorted(base) if base[name].is_floating_point()]

    def flat(weights):
        return np.concatenate([weights[name].double().numpy().ravel() for name in names])

    start = flat(base)
    trimmed = []
    for each in models:
        tau = flat(each) - start
        size = np.abs(tau)
        least = np.sort(size)[::-1][max(1, int(density * len(tau))) - 1]
        trimmed.append(np.where(size >= least, tau, 0.0))
    sign = np.where(sum(trimmed) >= 0, 1.0, -1.0)
    agrees = [np.sign(tau) == sign for tau in trimmed]
    count = sum(each.astype(float) for each in agrees)
    mean = sum(np.where(each, tau, 0.0) for each, tau in zip(agrees, trimmed, strict=True)) / np.maximum(count, 1)
    merged, found, place = start + mean, {}, 0
    for name in names:
        size = base[name].numel()
        found[name] = merged[place : place + size].reshape(base[name].shape)
        place += size
    return found


def loaded(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


MIXED = {"a.weight": torch.bfloat16, "b.weight": torch.float64, "e.weight": torch.float16}


@pytest.mark.parametrize("density", [0.2, 0.01, 0.7, 1.0])
@pytest.mark.parametrize("dtypes", [None, MIXED], ids=["float32", "mixed"])
def test_ties_over_the_whole_model_is_the_sorted_one(tmp_path, small_chunks, density, dtypes):
    base, *models = folders(tmp_path, dtypes)
    for threads in (1, 3):
        out = tmp_path / f"out{threads}"
        merge("ties", models, base, (), out, density=density, trim="model", threads=threads, dtype="float64")
    got, again = loaded(tmp_path / "out1"), loaded(tmp_path / "out3")
    expected = ties_by_sorting(loaded(base), [loaded(each) for each in models], density)
    for name, wanted in expected.items():
        assert torch.equal(got[name], again[name]), "threads and their order change nothing"
        assert got[name].numpy() == pytest.approx(wanted, abs=1e-6), name
    assert torch.equal(got["position_ids"], torch.arange(5))
    assert json.loads((tmp_path / "out1" / "merge.json").read_text())["trim"] == "model"


def test_the_two_trims_differ_where_tensors_change_unequally(tmp_path):
    """Of b, which changes by a fiftieth, the whole model's share keeps nothing, and each tensor's share a fifth."""
    base, one, _, _ = folders(tmp_path)
    kept = {}
    for trim in ("tensor", "model"):
        merge("ties", [one], base, (), tmp_path / trim, trim=trim)
        start, merged = loaded(base), loaded(tmp_path / trim)
        kept[trim] = {name: int((merged[name] != start[name]).sum()) for name in ("a.weight", "b.weight")}
    assert kept["tensor"] == {"a.weight": 48, "b.weight": 10}
    assert kept["model"]["b.weight"] == 0 and kept["model"]["a.weight"] > 60


def test_of_a_tensor_alone_both_are_one(tmp_path):
    """Also where many magnitudes are equal: all that tie at the threshold stay."""
    weights = torch.tensor([3.0, -3.0, 1.0, 3.0, 0.5, 0.0, 2.0, -0.25])
    base, one = (model(tmp_path / n, {"w": w}) for n, w in (("base", torch.zeros(8)), ("one", weights)))
    for trim in ("tensor", "model"):
        merge("ties", [one], base, (), tmp_path / trim, trim=trim, density=0.25)
        assert loaded(tmp_path / trim)["w"].tolist() == [3.0, -3.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0]


def test_adapters_are_trimmed_as_the_models_that_they_make(tiny_folder, tmp_path, capsys):
    """The whole model is that of W + B A: with the plan, and the passes that it will take."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    places = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        full = AutoModelForCausalLM.from_pretrained(tiny_folder)
        adapted = get_peft_model(full, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        adapted.save_pretrained(tmp_path / f"lora{seed}")
        places.append(tmp_path / f"lora{seed}")
        adapted.merge_and_unload().save_pretrained(tmp_path / f"full{seed}")
    merge("ties", places, None, (), tmp_path / "out", into=tiny_folder, trim="model")
    merge("ties", [tmp_path / "full1", tmp_path / "full2"], tiny_folder, (), tmp_path / "wanted", trim="model")
    got, wanted = loaded(tmp_path / "out"), loaded(tmp_path / "wanted")
    assert all(torch.allclose(got[name], tensor, atol=1e-6) for name, tensor in wanted.items())
    arguments = (
        tmp_path / "full1",
        "--method",
        "ties",
        "--base",
        tiny_folder,
        "--trim",
        "model",
        "--out",
        tmp_path / "o",
    )
    code, said = command(*arguments, "--dry-run", capsys=capsys)
    assert code == 0 and "trim model" in said


MEMORY = """
import json, resource
from pathlib import Path
from cpt.merging.merge import merge
for name in "abc":
    Path(name).mkdir()
    header = {f"w{i}": {"dtype": "BF16", "shape": [15_000_000], "data_offsets": [i * 30_000_000, (i + 1) * 30_000_000]}
              for i in range(4)}
    header = json.dumps(header).encode()
    with open(f"{name}/model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 120_000_000)
    Path(name, "config.json").write_text('{"model_type": "qwen3"}')
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge("ties", [Path("a"), Path("b")], Path("c"), (), Path("out"), threads=2, trim="model")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_is_buffers_whatever_the_models_size(tmp_path):
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 90e6, "three models of 120 MB were read, three times"


def test_a_recipe_may_say_it(tmp_path):
    content = short("sft") | {"strategies": [{"kind": "merge", "method": "ties", "trim": "models"}]}
    assert any("strategies.0.trim: must be one of tensor, model" in line for line in mistakes(tmp_path, content))
    content["strategies"][0] = {"kind": "merge", "method": "dare", "trim": "model"}
    assert any("trim is an option of ties, not of dare" in line for line in mistakes(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "trim", "said"),
    [
        ("ties", "layer", "--trim: no layer; there are tensor, model"),
        ("dare", "model", r"--trim: dare does not have it \(it belongs to ties\)"),
    ],
)
def test_a_wrong_trim_is_one_line(name, trim, said):
    with pytest.raises(UserError, match=said):
        make_method(name, 2, trim=trim)


# -- small tensors, trained gently -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-7, 1e-12])
def test_model_stock_has_no_size(size):
    """t = N cos / (1 + (N - 1) cos) of 60 degrees is 2/3, of parallel changes 1, whatever the norms."""
    base = torch.zeros(2, dtype=torch.float64)
    one, two = (size * torch.tensor(each, dtype=torch.float64) for each in ([2.0, 0.0], [1.0, 3**0.5]))
    assert (stock.model_stock(base, [one, two]) / size).tolist() == pytest.approx([1.0, 3**0.5 / 3])
    assert (stock.model_stock(base, [one, 2 * one]) / size).tolist() == pytest.approx([3.0, 0.0]), "all of the change"
    assert stock.model_stock(base, [one, 0 * one]).tolist() == [0.0, 0.0], "with what did not change there is no angle"


def test_model_stock_of_a_gently_trained_norm(tmp_path):
    """A tensor of 8 that two models changed alike by some 1e-5: all of it is kept (it was .016, or less)."""
    change = torch.tensor([1, -1, 2, 1, -2, 1, 1, -1]) * 1e-5
    start = {"norm.weight": torch.ones(8), "other.weight": torch.zeros(8)}
    base, one, two = (
        model(
            tmp_path / name,
            {"norm.weight": start["norm.weight"] + k * change, "other.weight": torch.full((8,), float(k))},
        )
        for name, k in (("base", 0), ("one", 1), ("two", 1))
    )
    merge("model-stock", [one, two], base, (), tmp_path / "out")
    kept = (loaded(tmp_path / "out")["norm.weight"] - 1) / (loaded(one)["norm.weight"] - 1)
    assert kept.tolist() == pytest.approx([1.0] * 8)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-9, 1e-14])
def test_slerp_has_no_size(size):
    one, two = (size * torch.tensor(each) for each in ([1.0, 0.0], [0.6, 0.8]))
    angle = np.arccos(0.6)
    expected = (np.sin(0.75 * angle) * np.array([1.0, 0.0]) + np.sin(0.25 * angle) * np.array([0.6, 0.8])) / np.sin(
        angle
    )
    assert (slerp.slerp(one, two, 0.25).double() / size).numpy() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert torch.equal(slerp.slerp(one, one, 0.3), one)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-10])
def test_della_rescales_whatever_the_size(size):
    """Of 1, 2, 3, 4 the last two are kept: times 10 / 7."""
    tau = size * torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    mask = torch.tensor([[0, 0, 1, 1]], dtype=torch.uint8)
    found = della.della(torch.zeros_like(tau), [tau], masks=[mask])
    assert (found / size).tolist() == [pytest.approx([0.0, 0.0, 30 / 7, 40 / 7])]
    none = della.della(torch.zeros_like(tau), [tau], masks=[0 * mask])
    assert none.tolist() == [[0.0] * 4]
