"""A model whose generation config transformers would not save is trained and saved; its own file goes with the weights."""

import json
import shutil

import pytest

from cpt import models
from cpt.recipe import load
from helpers.recipes import short, write_recipe

REFUSED = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 5], "pad_token_id": 0}


@pytest.fixture
def refused(tiny_folder, tmp_path):
    """The toy model with a generation config of flags that contradict one another."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(REFUSED))
    return tmp_path / "model"


def test_the_file_is_copied_as_it_is(refused, tmp_path):
    recipe = load("quickstart", [f"model.path={refused}"])
    model = models.load_full(refused, recipe)
    assert (model.generation_config.eos_token_id, model.generation_config.temperature) == ([1, 5], None)
    models.save_policy(model, model.state_dict(), refused, tmp_path / "saved", recipe, refused)
    assert json.loads((tmp_path / "saved" / "generation_config.json").read_text()) == REFUSED


def test_a_run_of_it(cpt, refused, tmp_path):
    content = short("sft", "rlvr", tasks=("reverse",), evaluate=4) | {"model": {"path": str(refused)}}
    for stage in content["stream"][0]["stages"]:
        stage["args"]["save_steps"] = 1
    file, out = write_recipe(tmp_path / "recipe.yaml", content), tmp_path / "run"
    assert cpt("check", file, "--out", out) == 0, cpt.output
    assert cpt("run", file, "--out", out) == 0, cpt.output
    assert json.loads((out / "final" / "generation_config.json").read_text()) == REFUSED
