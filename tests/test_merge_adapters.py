"""LoRA adapters read as the weights that they make of a model: against PEFT's own merge, and each mistake in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cpt.checks.adapter import check_adapter
from cpt.cli import main as cli
from cpt.errors import UserError
from cpt.lora import refusal
from cpt.merging import stream
from cpt.merging.adapters import Adapted
from cpt.merging.merge import merge
from cpt.recipe import load
from helpers.recipes import mistakes, short, write_recipe

ADAPTERS = {
    "plain": {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "patterns": {
        "r": 4,
        "target_modules": "all-linear",
        "use_rslora": True,
        "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {".*layers.1.mlp.up_proj": 3, "k_proj": 5},
        "modules_to_save": ["norm"],
    },
    "embedding": {"r": 3, "target_modules": ["embed_tokens", "o_proj"]},
}


@pytest.fixture(scope="module")
def base(tiny_folder, tmp_path_factory):
    """The built-in toy model with a head of its own, so that its embedding can be adapted."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("base") / "model"
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    assert "lm_head.weight" in load_file(folder / "model.safetensors")
    return folder


def adapter(folder, base, seed: int = 0, **options):
    """A random adapter on `base`; returns the model that PEFT makes of both."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    model.save_pretrained(folder)
    return model.merge_and_unload()


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks that end within rows."""
    monkeypatch.setattr(stream, "CHUNK", 4000)
    monkeypatch.setattr(stream, "BLOCK", 5000)


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_is_what_peft_unloads(name, base, tmp_path, small_chunks):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wanted = adapter(tmp_path / "a", base, **ADAPTERS[name]).state_dict()
    merge("soup", [tmp_path / "a", tmp_path / "a"], out=tmp_path / "out", into=base)
    got = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    before = load_file(base / "model.safetensors")
    assert got.keys() == wanted.keys() and not (tmp_path / "out" / "adapter_config.json").exists()
    changed = {each for each in got if not torch.equal(got[each], before[each])}
    assert len(changed) >= 4 and ("model.norm.weight" in changed) == (name == "patterns")
    for each, tensor in got.items():
        torch.testing.assert_close(tensor, wanted[each], rtol=1e-6, atol=1e-7, msg=each)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("abc=") == AutoTokenizer.from_pretrained(base)("abc=")


def test_ties_of_adapters_are_ties_of_the_models(base, tmp_path):
    """Ranks may differ: what is merged are changes of the model. Its base is the model under them."""
    models = [adapter(tmp_path / f"a{r}", base, r, r=r, target_modules=["q_proj", "up_proj"]) for r in (2, 4)]
    for number, each in enumerate(models):
        each.save_pretrained(tmp_path / f"full{number}")
    merge("ties", [tmp_path / "a2", tmp_path / "a4"], out=tmp_path / "out", into=base, density=0.3)
    merge("ties", [tmp_path / "full0", tmp_path / "full1"], base, out=tmp_path / "wanted", density=0.3)
    got, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "wanted"))
    off = {name: (got[name] - tensor).abs() > 1e-6 for name, tensor in wanted.items()}
    assert sum(each.sum() for each in off.values()) <= 4, "but for values at a threshold"
    assert (tmp_path / "out" / "config.json").read_text() == (base / "config.json").read_text()
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["base"] == record["into"] == base.parent.name


def test_an_adapter_and_whole_models_are_merged(base, tmp_path):
    full = adapter(tmp_path / "a", base, r=2, target_modules=["q_proj"])
    full.save_pretrained(tmp_path / "full")
    merge("linear", [tmp_path / "a", base], None, (1, 3), tmp_path / "out", into=base)
    merge("linear", [tmp_path / "full", base], None, (1, 3), tmp_path / "wanted")
    got, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "wanted"))
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-6, atol=1e-7)


def written_by_hand(tmp_path, fan_in_fan_out: bool, dtype=torch.float32) -> tuple:
    """A model of one tensor, 6 out of 4 (as stored: 4 x 6 where fan_in_fan_out), and its adapter of rank 2."""
    generator = torch.Generator().manual_seed(0)
    w, a, b = (torch.randn(shape, generator=generator) for shape in ((6, 4), (2, 4), (6, 2)))
    w = w.T.contiguous() if fan_in_fan_out else w
    (tmp_path / "model").mkdir(), (tmp_path / "a").mkdir()
    save_file({"h.c.weight": w.to(dtype)}, tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    parts = {"lora_A": a, "lora_B": b}
    save_file(
        {f"base_model.model.h.c.{n}.weight": t for n, t in parts.items()}, tmp_path / "a/adapter_model.safetensors"
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "fan_in_fan_out": fan_in_fan_out}
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    change = 1.5 * b @ a
    return w.to(dtype).float() + (change.T if fan_in_fan_out else change), config


@pytest.mark.parametrize("fan_in_fan_out", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_piece_of_a_tensor(fan_in_fan_out, dtype, tmp_path):
    """From within a row to within another; computed in float32 and written as the model is, rounded once."""
    wanted, _ = written_by_hand(tmp_path, fan_in_fan_out, dtype)
    with Adapted(tmp_path / "a", tmp_path / "model") as weights:
        for start, end in ((0, 24), (5, 6), (5, 17), (0, 1), (23, 24), (8, 16)):
            piece = torch.empty((end - start) * 4, dtype=torch.uint8)
            weights.read("h.c.weight", start * 4, piece)
            torch.testing.assert_close(piece.view(torch.float32), wanted.reshape(-1)[start:end], rtol=1e-6, atol=1e-6)
    merge("soup", [tmp_path / "a"] * 2, out=tmp_path / "out", into=tmp_path / "model")
    got = load_file(tmp_path / "out" / "model.safetensors")["h.c.weight"]
    assert got.dtype == dtype
    torch.testing.assert_close(got, wanted.to(dtype), rtol=1e-6 if dtype == torch.float32 else 8e-3, atol=1e-6)


MISTAKES = {
    "kind": (
        lambda c, t: c.update(peft_type="IA3"),
        "IA3 adapters cannot be read as weights, only LoRA can: apply it to",
    ),
    "dora": (
        lambda c, t: c.update(use_dora=True),
        "use_dora True is not supported (only W + scaling B A is): apply it to",
    ),
    "start": (
        lambda c, t: c.update(init_lora_weights="pissa"),
        "init_lora_weights 'pissa' may change the base model",
    ),
    "unknown": (lambda c, t: c.update(of_the_future=2), "of_the_future 2 is not supported"),
    "no B": (lambda c, t: t.pop("base_model.model.h.c.lora_B.weight"), "and lacks base_model.model.h.c.lora_B.weight"),
    "no A": (lambda c, t: t.pop("base_model.model.h.c.lora_A.weight"), "and lacks base_model.model.h.c.lora_A.weight"),
    "another model": (
        lambda c, t: t.update({"base_model.model.g.lora_A.weight": torch.ones(2, 4)}),
        "is for g.weight, which",
    ),
    "shape": (lambda c, t: c.update(fan_in_fan_out=True), "the factors of h.c are 2 x 4 and 6 x 2, its weight in"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, tmp_path, capsys):
    spoil, words = MISTAKES[mistake]
    _, config = written_by_hand(tmp_path, False)
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    spoil(config, tensors)
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    places = (tmp_path / "a", tmp_path / "a", "--into", tmp_path / "model", "--out", tmp_path / "out")
    with pytest.raises(SystemExit) as end:
        cli.main(["merge", *map(str, places), "--method", "soup", "--quiet"])
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.count("\n") == 1 and words in told, told
    assert not (tmp_path / "out").exists()


def test_what_is_laid_under_what(tmp_path, tiny_folder):
    written_by_hand(tmp_path, False)
    one, model = tmp_path / "a", tmp_path / "model"
    with pytest.raises(UserError, match="a is an adapter: name the model that the adapters were trained on"):
        merge("soup", [one, one], out=tmp_path / "out", into=one)
    with pytest.raises(UserError, match="none of the models is an adapter"):
        merge("soup", [model, model], out=tmp_path / "out", into=model)
    with pytest.raises(UserError, match=r"or read adapters as models \(--into\)"):
        merge("ties", [one, one], model, out=tmp_path / "out")
    adapter(tmp_path / "tied", tiny_folder, r=2, target_modules=["embed_tokens"])
    with pytest.raises(UserError, match=r"adapts model\.embed_tokens\.weight, and .* ties its head to the embedding"):
        merge("soup", [tmp_path / "tied"] * 2, out=tmp_path / "out", into=tiny_folder)


def test_adapters_of_one_config_are_merged_as_adapters(tmp_path, tiny_folder):
    for seed, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
        save_file({"q.lora_A.weight": weight}, tmp_path / name / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "target_modules": ["q", "v"][:: 1 - 2 * seed]}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    merge("linear", [tmp_path / "a", tmp_path / "b"], None, (0, 1), tmp_path / "out")
    got, wanted = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "b"))
    assert torch.equal(got["q.lora_A.weight"], wanted["q.lora_A.weight"])
    (tmp_path / "b" / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(UserError, match=r"r is 4 in .*, 8 in .*: only adapters with the same config can be merged"):
        merge("linear", [tmp_path / "a", tmp_path / "b"], None, (), tmp_path / "no")
    with pytest.raises(UserError, match=r"is an adapter, .* is not"):
        merge("linear", [tmp_path / "a", tiny_folder], None, (), tmp_path / "no")


def test_every_field_of_a_plain_lora_is_known():
    from peft import LoraConfig

    assert refusal(LoraConfig(target_modules=["q_proj"]).to_dict() | {"peft_type": "LORA"}) is None


# -- in a stream ---------------------------------------------------------------------------------------------------------

LORA = {"kind": "lora", "r": 2, "target_modules": "all-linear"}
WEIGHTS = {"kind": "merge", "method": "wise", "adapters": "weights", "feed_back": False}


def with_adapter(spec: dict, adapter: dict | None = LORA, **more) -> dict:
    content = short("sft", steps=2, evaluate=4) | {"strategies": [spec]} | more
    return content | ({"adapter": adapter} if adapter else {})


def test_a_stream_of_adapters_serves_full_models(cpt, tmp_path, monkeypatch):
    """Each task goes on from its adapter; evaluated, shipped and evaluated by hand is the merge with the untouched model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from cpt.loop import run
    from cpt.rollouts.transformers import TransformersEngine
    from cpt.screen import QUIET, Screen

    seen, sync = [], TransformersEngine.sync

    def hear(self, model, tokenizer, tensors=None):
        if not model.training:  # it is evaluated
            seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return sync(self, model, tokenizer, tensors)

    monkeypatch.setattr(TransformersEngine, "sync", hear)
    spec = WEIGHTS | {"sources": "base", "weight": 0.25}
    recipe = load(write_recipe(tmp_path / "recipe.yaml", with_adapter(spec)))
    run(recipe, tmp_path / "run", Screen(QUIET))
    points = tmp_path / "run" / "points"
    base = AutoModelForCausalLM.from_pretrained(points / "00-base" / "model")
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    assert (points / "01-reverse" / "model" / "adapter_config.json").is_file() and len(seen) == 3
    unloaded = PeftModel.from_pretrained(base, points / "02-caesar" / "model").merge_and_unload().state_dict()
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final").state_dict()
    assert served.keys() == before.keys() == seen[2].keys()
    for name, tensor in served.items():
        wanted = 0.25 * before[name] + 0.75 * unloaded[name]
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(seen[2][name], tensor), "another model was evaluated"
    assert not torch.equal(seen[1]["model.layers.0.mlp.up_proj.weight"], seen[2]["model.layers.0.mlp.up_proj.weight"])
    assert cpt("eval", tmp_path / "run" / "final", "--suite", "general") == 0, cpt.output


@pytest.mark.parametrize("method", ["ties", "soup"])
def test_methods_of_changes_in_a_stream(method, cpt, tmp_path):
    content = with_adapter(
        {"kind": "merge", "method": method, "adapters": "weights", "feed_back": False, "sources": "all"}
    )
    assert cpt("run", write_recipe(tmp_path / "r.yaml", content), "--out", tmp_path / "run", "--quiet") == 0, cpt.output
    (told,) = json.loads((tmp_path / "run" / "results.json").read_text())["stages"][1]["merges"]
    assert told["merged"] and told["points"] == (["00-base", "01-reverse"] if method == "soup" else ["01-reverse"])
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_an_adapter_of_a_tied_embedding_is_refused_before_training(tiny_folder, tmp_path):

    adapter = LORA | {"target_modules": ["q_proj", "embed_tokens"]}
    recipe = load(write_recipe(tmp_path / "weights.yaml", with_adapter(WEIGHTS, adapter)))
    with pytest.raises(UserError, match="it changes the embedding or the head, which this model ties together"):
        check_adapter(tiny_folder, recipe)
    check_adapter(tiny_folder, load(write_recipe(tmp_path / "plain.yaml", with_adapter(WEIGHTS))))
    factors = {"kind": "merge", "method": "wise"}
    check_adapter(tiny_folder, load(write_recipe(tmp_path / "factors.yaml", with_adapter(factors, adapter))))


WRONG = {
    "fed back": (
        with_adapter(WEIGHTS | {"feed_back": True}),
        "strategies.0: with `adapters: weights` the merge is a full",
    ),
    "no adapter": (
        with_adapter(WEIGHTS, None),
        "strategies.0.adapters: `weights` is for recipes that train an adapter",
    ),
    "ia3": (
        with_adapter(WEIGHTS, {"kind": "ia3"}),
        "IA3 adapters cannot be read as weights, only LoRA can: set `adapters: fac",
    ),
    "dora": (with_adapter(WEIGHTS, LORA | {"use_dora": True}), "use_dora True is not supported"),
    "engine": (
        with_adapter(WEIGHTS, rollouts={"engine": "vllm"}),
        "strategies.0.adapters: weights: the engine vllm serves the untouched model and adapters on it",
    ),
    "factors": (
        with_adapter({"kind": "merge", "method": "ties"}),
        "use wise, slerp, soup or fisher, or set `adapters: weights`",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_a_recipe_is_one_line(name, tmp_path):
    content, said = WRONG[name]
    (line,) = (each for each in mistakes(tmp_path, content) if "vLLM is not installed" not in each)
    assert said in line
