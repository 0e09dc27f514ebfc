"""LoRA that begins with a part of the base's own weights: PiSSA (2404.02948) and OLoRA (2406.01775).

They draw the first factors A0, B0 from W (its largest singular directions; its QR decomposition) and train B A over
W - s B0 A0, where s is the adapter's scaling. PEFT writes that difference into the base. Here instead:

1. The base keeps W, and a hook takes s B0 A0 x away wherever an adapter is applied. So the model without its adapter is the
   base (a KL's reference), and a second adapter laid over it (TRL's copy of the first) does not change it again.
2. A folder holds the LoRA over W that computes the same, of twice the rank: s [B, -B0] [A; A0]. PEFT, vLLM and `cpt merge`
   load it as it is. With A and B alone they would have to find A0 and B0 again, which a randomised SVD (`pissa_niter_N`)
   cannot.
3. To train on, that folder is split into A, B and A0, B0 again.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from cpt.adapters import CONFIG
from cpt.files import write_json
from cpt.lora import takes_from_base

FIRST_A, FIRST_B = "first_lora_A", "first_lora_B"  # buffers of a layer, in no state dict: A0 (r x in) and B0 (out x r)
RANK_AXIS = {"lora_A.weight": 0, "lora_embedding_A": 0, "lora_B.weight": 1, "lora_embedding_B": 1}
WEIGHTS = "adapter_model.safetensors"


def lay(model, config):
    """PEFT's `get_peft_model`, but the base's weights stay as they are.

    Raises:
        ValueError: the rank is more than can be drawn of a weight.
    """
    from peft import get_peft_model

    if not takes_from_base(vars(config)):
        return get_peft_model(model, config)
    how, config.init_lora_weights = config.init_lora_weights.lower(), True
    laid = get_peft_model(model, config)
    for name, layer in layers(laid):
        draw(name, layer, how)
    return laid


def lay_saved(model, config, folder: Path):
    """The adapter of `folder` over `model`, to train on."""
    from peft import get_peft_model, load_peft_weights, set_peft_model_state_dict

    config.init_lora_weights = True
    laid, saved = get_peft_model(model, config), load_peft_weights(folder, "cpu")
    for name, layer in layers(laid):
        a, b = saved[f"{name}.lora_A.weight"], saved[f"{name}.lora_B.weight"]
        rank = len(a) // 2
        take_away(layer, a[rank:], -b[:, rank:])
    set_peft_model_state_dict(laid, trained(saved))
    return laid


def layers(model) -> Iterator[tuple[str, torch.nn.Module]]:
    """(name, module) of every LoRA over a matrix. One over an embedding begins with a product of zero, as always."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and "default" in module.lora_A and module.get_base_layer().weight.dim() == 2:
            yield name, module


@torch.no_grad()
def draw(name: str, layer: torch.nn.Module, how: str) -> None:
    """Draw the first factors of a new adapter from its layer's weight."""
    base, factors = layer.get_base_layer(), (layer.lora_A["default"], layer.lora_B["default"])
    shapes, kept = [each.weight.shape for each in factors], base.weight.data.clone()
    if how == "olora":
        layer.olora_init("default")
    else:
        layer.pissa_init("default", how)
    base.weight.data = kept
    if [each.weight.shape for each in factors] != shapes:
        rank, shape = layer.r["default"], " x ".join(map(str, kept.shape))
        raise ValueError(f"{how} cannot draw a rank of {rank} from {name.split('model.', 1)[-1]} ({shape})")
    take_away(layer, *(each.weight.clone() for each in factors))


def take_away(layer: torch.nn.Module, a: torch.Tensor, b: torch.Tensor) -> None:
    """From now on the layer's adapters are applied over W - s B0 A0."""
    like = layer.lora_A["default"].weight
    layer.register_buffer(FIRST_A, a.to(like, copy=True), persistent=False)
    layer.register_buffer(FIRST_B, b.to(like, copy=True), persistent=False)
    layer.register_forward_hook(without_first)


def without_first(layer: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    if layer.disable_adapters:
        return output
    a, b = getattr(layer, FIRST_A), getattr(layer, FIRST_B)
    return output - (linear(linear(inputs[0].to(a.dtype), a), b) * layer.scaling["default"]).to(output.dtype)


# -- folders ---------------------------------------------------------------------------------------------------------------


def is_split(model) -> bool:
    """Whether the PEFT model applies its adapters over W - s B0 A0."""
    return any(hasattr(module, FIRST_A) for module in model.modules())


def with_part_of_base(model, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter's tensors (named as in its file) as they are over W: of twice the rank where `is_split`."""
    if not is_split(model):
        return dict(tensors)
    first = {}
    for name, layer in layers(model):
        first |= {f"{name}.lora_A.weight": getattr(layer, FIRST_A), f"{name}.lora_B.weight": -getattr(layer, FIRST_B)}
    widened = dict(tensors)
    for name, axis in rank_axes(tensors):
        beside = first[name].to(tensors[name]) if name in first else torch.zeros_like(tensors[name])
        widened[name] = torch.cat([tensors[name], beside], axis)
    return widened


def trained(saved: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a folder's tensors those that are trained: A and B without A0 and B0."""
    halves = {name: saved[name].narrow(axis, 0, saved[name].shape[axis] // 2) for name, axis in rank_axes(saved)}
    return {**saved, **halves}


def rank_axes(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, int]]:
    """(name, the axis along which the rank lies) of the factors among an adapter's tensors."""
    for name in tensors:
        for end, axis in RANK_AXIS.items():
            if name.endswith(f".{end}"):
                yield name, axis


def whole_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's config of an adapter of twice the rank and the same scaling."""
    factor = 2**0.5 if config.get("use_rslora") else 2
    return {
        **config,
        "r": 2 * config["r"],
        "lora_alpha": factor * config["lora_alpha"],
        "rank_pattern": {name: 2 * rank for name, rank in (config.get("rank_pattern") or {}).items()},
        "alpha_pattern": {name: factor * alpha for name, alpha in (config.get("alpha_pattern") or {}).items()},
    }


def saved_form(model) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors, config) of the policy's adapter as its folder holds them."""
    from peft.utils import get_peft_model_state_dict

    config = vars(model.peft_config["default"])
    tensors = with_part_of_base(model, get_peft_model_state_dict(model, adapter_name="default"))
    return tensors, whole_config(config) if is_split(model) else config


def make_whole(model, folder: Path) -> None:
    """Let the adapter that PEFT has saved in `folder` be the one over W."""
    from safetensors.torch import load_file, save_file

    if is_split(model):
        save_file(with_part_of_base(model, load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
        write_json(folder / CONFIG, whole_config(json.loads((folder / CONFIG).read_text(encoding="utf-8"))))
