"""Weights that are no longer numbers: never kept, never evaluated (transformers logs a loss of 0 for NaN and goes on)."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.recipes import recipe, write_recipe

# A decay of 100 at a rate of 100 makes each weight -9999 times what it was: infinite after ten steps.
DIVERGES = {"learning_rate": 100, "weight_decay": 100, "max_steps": 12}


def the_line(output: str) -> str:
    (line,) = [line for line in output.splitlines() if line.startswith("cpt: ")]
    assert "Traceback" not in output
    return line


@pytest.mark.parametrize("kind, logging_steps", [("sft", 1), ("sft", 50), ("dpo", 1)])
def test_training_that_diverges_is_not_kept(cpt, tmp_path, kind, logging_steps):
    content = recipe(kind, tasks=("reverse",), evaluate=4)
    content["stream"][0]["stages"][0]["args"] |= DIVERGES | {"logging_steps": logging_steps}
    file = write_recipe(tmp_path / "recipe.yaml", content)
    assert cpt("run", file, "--out", tmp_path / "run") == 2, cpt.output
    line = the_line(cpt.output)
    assert "stream.reverse.stages.0: training diverged: " in line and "lower learning_rate" in line
    assert [done.parent.name for done in (tmp_path / "run" / "points").glob("*/DONE")] == ["00-base"]


def test_a_model_that_holds_nan_is_refused(cpt, tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.norm.weight"][2] = torch.nan
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    content = recipe("sft", tasks=("reverse",), evaluate=4) | {"model": {"path": str(tmp_path / "model")}}
    assert cpt("run", write_recipe(tmp_path / "recipe.yaml", content), "--out", tmp_path / "run") == 2, cpt.output
    assert "model.norm.weight holds NaN or infinity: repair the model, or give another" in the_line(cpt.output)
