"""The base of a run: copied, or linked with `model.copy: false`; what its adapters call it; one adapter folded into it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from helpers.recipes import short, write_recipe

LORA = {"kind": "lora", "r": 2, "lora_alpha": 8, "target_modules": "all-linear"}


def linked(folder, tiny_folder, steps: int = 2):
    """A recipe on a copy of the built-in toy model in `folder`/source, without a copy in the run."""
    shutil.copytree(tiny_folder, folder / "source")
    content = short("sft", steps=steps, tasks=("reverse",), evaluate=2)
    content["model"] = {"path": str(folder / "source"), "copy": False}
    return write_recipe(folder / "recipe.yaml", content)


def test_a_run_without_a_copy_ends_as_one_with(cpt, tmp_path, tiny_folder):
    recipe = linked(tmp_path, tiny_folder)
    assert cpt("check", recipe) == 0 and "linked and not copied" in cpt.output
    for name, words in (("linked", []), ("copied", ["model.copy=true"])):
        assert cpt("run", recipe, *words, "--out", tmp_path / name, "--quiet") == 0, cpt.output
    bases = [tmp_path / name / "points" / "00-base" / "model" for name in ("linked", "copied")]
    assert (bases[0] / "model.safetensors").is_symlink() and not (bases[1] / "model.safetensors").is_symlink()
    assert not (bases[0] / "config.json").is_symlink()
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("linked", "copied")]
    assert weights[0] == weights[1]
    assert cpt("eval", tmp_path / "linked", "--point", "00-base", "--suite", "general", "--quiet") == 0, cpt.output


@pytest.mark.parametrize("change", ["overwritten", "gone"])
def test_a_run_without_a_copy_is_refused_where_its_model_changed(cpt, tmp_path, tiny_folder, change):
    """Before anything is made anew; with the file back in its place the run goes on."""
    recipe, out = linked(tmp_path, tiny_folder), tmp_path / "run"
    assert cpt("run", recipe, "--out", out, at={"place": "cpt.models.save_policy", "call": 1}) == -9
    weights = tmp_path / "source" / "model.safetensors"
    content = weights.read_bytes()
    if change == "gone":
        weights.rename(tmp_path / "elsewhere")
    else:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = sorted(str(path) for path in out.rglob("*"))
    assert cpt("run", recipe, "--out", out) == 2, cpt.output
    lines = [line for line in cpt.output.splitlines() if line.startswith("cpt: ")]
    assert len(lines) == 1 and f"model.path: {weights} is not what this run began with, or is gone" in lines[0]
    assert sorted(str(path) for path in out.rglob("*")) == before, "something of the run was thrown away"
    weights.write_bytes(content)
    assert cpt("run", recipe, "--out", out, "--quiet") == 0, cpt.output
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert cpt("run", recipe, "--out", out) == 2, "a finished run is looked at too"


def test_weights_in_another_form_are_left_out(tmp_path, tiny_folder):
    from cpt import models
    from cpt.recipe import load

    shutil.copytree(tiny_folder, tmp_path / "source")
    shutil.copy(tmp_path / "source" / "model.safetensors", tmp_path / "source" / "consolidated.safetensors")
    models.write_base(load("quickstart"), tmp_path / "source", tmp_path / "target")
    assert [file.name for file in (tmp_path / "target").glob("*.safetensors")] == ["model.safetensors"]


@pytest.fixture(scope="module")
def adapted(cpt, tmp_path_factory):
    """A finished run of an adapter."""
    folder = tmp_path_factory.mktemp("adapted")
    content = short("sft", steps=3, tasks=("reverse",), evaluate=2) | {"adapter": LORA}
    assert cpt("run", write_recipe(folder / "recipe.yaml", content), "--out", folder / "run", "--quiet") == 0, (
        cpt.output
    )
    return folder / "run"


def test_an_adapter_names_the_base_of_its_run(adapted):
    """So PEFT alone can load it; the hub's id where the model is of the hub."""
    from peft import AutoPeftModelForCausalLM

    named = json.loads((adapted / "final" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str((adapted / "points" / "00-base" / "model").resolve())
    AutoPeftModelForCausalLM.from_pretrained(adapted / "final")


def test_an_adapter_of_a_model_of_the_hub_names_the_hub(tmp_path, adapted):
    from cpt import models
    from cpt.recipe import load

    shutil.copytree(adapted / "final", tmp_path / "adapter")
    recipe = load("quickstart", ["model.path=owner/name", "model.revision=v2"])
    models.write_adapter_config(tmp_path / "adapter", recipe, [], adapted / "points" / "00-base" / "model")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/name", "v2")


@pytest.mark.parametrize("how", ["by its run", "moved", "by its name"])
def test_one_adapter_is_folded_into_its_base(cpt, adapted, tmp_path, how):
    """As PEFT merges it: in its run, in a run that was moved, and alone, where its config says where the base is."""
    from peft import AutoPeftModelForCausalLM

    expected = AutoPeftModelForCausalLM.from_pretrained(adapted / "final").merge_and_unload().state_dict()
    place, base = adapted / "final", adapted / "points" / "00-base" / "model"
    if how == "moved":
        shutil.copytree(adapted, tmp_path / "run", symlinks=True)
        place, base = tmp_path / "run" / "final", tmp_path / "run" / "points" / "00-base" / "model"
    if how == "by its name":
        shutil.copytree(adapted / "final", tmp_path / "adapter")
        place = tmp_path / "adapter"
    assert cpt("merge", place, "--out", tmp_path / "merged") == 0, cpt.output
    assert f"adapters are applied to: {base}" in cpt.output
    found = load_file(tmp_path / "merged" / "model.safetensors")
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)
    assert (tmp_path / "merged" / "tokenizer.json").is_file() and (tmp_path / "merged" / "config.json").is_file()
    assert cpt("eval", tmp_path / "merged", "--suite", "general", "--quiet") == 0, cpt.output


def test_without_a_method_only_one_adapter_is_merged(cpt, adapted, tmp_path):
    base = adapted / "points" / "00-base"
    for models in ([adapted, adapted], [base], [base, adapted]):
        assert cpt("merge", *models, "--out", tmp_path / "merged") == 2
        assert "cpt: --method: choose how the models are merged" in cpt.output, cpt.output
    shutil.copytree(adapted / "final", tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    for base, said in (("/no/where", "no folder /no/where"), (None, "base_model_name_or_path is null")):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base}))
        assert cpt("merge", tmp_path / "adapter", "--out", tmp_path / "merged") == 2
        assert said in cpt.output and "Traceback" not in cpt.output, cpt.output
