"""`cpt merge` on small models."""

import json

import pytest
import torch
from safetensors.torch import save_file

from cpt.cli import main as cli

CONFIG = {"model_type": "qwen3", "tie_word_embeddings": False, "dtype": "bfloat16"}
SHAPES = {"model.embed_tokens.weight": (40, 8), "model.norm.weight": (8,), "lm_head.weight": (40, 8), "scale": ()}


def tensors(seed: int, dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    floats = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}
    return floats | {"position_ids": torch.arange(5), "none": torch.zeros(0, 3, dtype=dtype)}


def model(folder, weights: dict, **config):
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


def command(*arguments, capsys) -> tuple[int, str]:
    """The exit code of `cpt merge`, and what it said."""
    with pytest.raises(SystemExit) as end:
        cli.main(["merge", *map(str, arguments)])
    told = capsys.readouterr()
    return end.value.code, told.out + told.err
