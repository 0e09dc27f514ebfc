"""Heads in merges: tied because the config says so or by default, saved though tied, untied all the same, lost."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cpt.errors import UserError
from cpt.merging.heads import ties_its_head
from cpt.merging.merge import merge
from helpers.recipes import recipe, write_recipe

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TIED_BY_DEFAULT = {"llama": False, "qwen2": False, "qwen3": False, "mistral": False, "gemma": True, "smollm3": True}


def model(folder: Path, seed: int, head: bool | str = True, **config) -> Path:
    """A small model; `head`: its own, none (False), or a copy of the embedding ("embedding")."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(12, 4, generator=generator) for name in (EMBEDDING, HEAD)}
    tensors["model.norm.weight"] = torch.ones(4)
    if head == "embedding":
        tensors[HEAD] = tensors[EMBEDDING].clone()
    elif not head:
        del tensors[HEAD]
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", **config}))
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", TIED_BY_DEFAULT)
def test_what_the_config_does_not_say_transformers_decides(kind, tmp_path):
    from transformers import AutoConfig

    folder = model(tmp_path / "m", 0, model_type=kind)
    assert ties_its_head(folder) == TIED_BY_DEFAULT[kind] == AutoConfig.from_pretrained(folder).tie_word_embeddings
    (folder / "config.json").write_text(
        json.dumps({"model_type": kind, "tie_word_embeddings": not TIED_BY_DEFAULT[kind]})
    )
    assert ties_its_head(folder) != TIED_BY_DEFAULT[kind]


def test_a_model_that_transformers_does_not_know(tmp_path):
    one, two = (model(tmp_path / name, seed, model_type="new") for seed, name in enumerate("ab"))
    with pytest.raises(UserError, match=r"model_type 'new': write tie_word_embeddings true or false"):
        merge("linear", [one, two], out=tmp_path / "out")


def test_a_head_that_is_tied_by_default_is_the_embeddings_mean(tmp_path):
    """Neither saved nor named in the config; and what the merge gives is what transformers computes from the mean."""
    from transformers import AutoModelForCausalLM, GemmaConfig, GemmaForCausalLM

    small = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 4, "vocab_size": 20}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    models = []
    for name in "ab":
        models.append(GemmaForCausalLM(GemmaConfig(**small)))
        models[-1].save_pretrained(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config.pop("tie_word_embeddings", None)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    merge("linear", [tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, weight in merged.named_parameters():
        mean = (models[0].get_parameter(name) + models[1].get_parameter(name)) / 2
        torch.testing.assert_close(weight, mean)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_a_head_of_its_own_under_a_config_that_ties(tmp_path):
    """transformers keeps the two apart, and so does the merge, whose config says so."""
    folders = [model(tmp_path / name, seed, tie_word_embeddings=True) for seed, name in enumerate("ab")]
    merge("linear", folders, out=tmp_path / "out")
    one, two, out = map(tensors_of, (*folders, tmp_path / "out"))
    for name in (EMBEDDING, HEAD):
        torch.testing.assert_close(out[name], (one[name] + two[name]) / 2)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_copy_of_the_embedding_is_no_head_of_its_own(tmp_path):
    folders = [model(tmp_path / name, seed, "embedding", tie_word_embeddings=True) for seed, name in enumerate("ab")]
    merge("linear", folders, out=tmp_path / "out")
    assert HEAD not in tensors_of(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    "untied", [{"tie_word_embeddings": False}, {}, {"text_config": {"tie_word_embeddings": False}}]
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_lost_head_is_refused(untied, place, tmp_path):
    folders = [model(tmp_path / name, seed, head=seed != place, **untied) for seed, name in enumerate("ab")]
    with pytest.raises(UserError, match=rf"/{'ab'[place]}: the config does not tie .* it was lost when"):
        merge("linear", folders, out=tmp_path / "out")
    with pytest.raises(UserError, match="it was lost when the model was saved"):
        merge("linear", [folders[place]] * 2, out=tmp_path / "both")


def test_what_has_no_head_or_one_of_another_name_is_merged(tmp_path):
    for number, (config, other) in enumerate([({"architectures": ["Qwen3Model"]}, None), ({}, "embed_out.weight")]):
        folders = [
            model(tmp_path / f"{number}{name}", 0, head=False, tie_word_embeddings=False, **config) for name in "ab"
        ]
        for folder in folders if other else ():
            save_file(tensors_of(folder) | {other: torch.ones(12, 4)}, folder / "model.safetensors")
        merge("linear", folders, out=tmp_path / f"out{number}")
        assert tensors_of(tmp_path / f"out{number}").keys() == tensors_of(folders[0]).keys()


def test_a_lost_head_is_found_by_check(cpt, tiny_folder, tmp_path):
    """A model whose head was its embedding, once the config unties the two."""
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    content = recipe("sft", tasks=("reverse",)) | {"model": {"path": str(folder)}}
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2, cpt.output
    assert "the weights have no lm_head.weight: it was lost when the model was saved" in cpt.output
    assert "Traceback" not in cpt.output


def test_a_model_path_that_is_no_model(cpt, tiny_folder, tmp_path):
    """An adapter is named with the command that makes a model of it, a run with its last model."""
    folder = shutil.copytree(tiny_folder, tmp_path / "adapter", ignore=shutil.ignore_patterns("config.json"))
    for config, base in (({"base_model_name_or_path": "a/b"}, "a/b"), ({}, "BASE")):
        (folder / "adapter_config.json").write_text(json.dumps(config))
        content = recipe("sft", tasks=("reverse",)) | {"model": {"path": str(folder)}}
        assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2, cpt.output
        assert f"`cpt merge {folder} --into {base} --out DIR`" in cpt.output
    (tmp_path / "run" / "final").mkdir(parents=True)
    content["model"]["path"] = str(tmp_path / "run")
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 2
    assert f"is not a model folder (no config.json): name {tmp_path / 'run' / 'final'}" in cpt.output
