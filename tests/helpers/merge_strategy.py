"""The strategy `merge` on models of one tensor, without a run."""

from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file

from cpt.recipe.merge import Merge as Spec
from cpt.screen import QUIET, Screen
from cpt.strategies.merge.strategy import Merge
from helpers.contexts import stage_and_services


def model(folder: Path, *values: float) -> Path:
    """A folder that can be merged: one tensor, `w`."""
    folder.mkdir(parents=True)
    save_file({"w": torch.tensor([values])}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    return folder


def weights(folder: Path) -> list[float]:
    return load_file(folder / "model.safetensors")["w"][0].tolist()


def tensors(run: Path, point: str, name: str = "model") -> dict[str, torch.Tensor]:
    (file,) = (run / "points" / point / name).glob("*.safetensors")
    return load_file(file)


def strategy(gates=None, adapter=None, **spec) -> Merge:
    recipe = SimpleNamespace(adapter=adapter, evaluation=SimpleNamespace(gates=gates or {}))
    return Merge(recipe, Spec(kind="merge", **spec), "0-merge")


def context(tmp_path: Path, *points: Path, judge=None):
    """After a task that `points` came before."""
    number = len(points)
    return stage_and_services(
        points=points, target=tmp_path / f"work-{number}" / "0-sft" / "model", evaluate_on_validation=judge,
        screen=Screen(QUIET), task=SimpleNamespace(name=f"task{number}"),
    )  # fmt: skip
