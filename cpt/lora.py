"""Which adapters are the weights W + scaling B A (LoRA, 2106.09685) and nothing else, by their PEFT config. No torch here."""

from collections.abc import Mapping
from typing import Any

# What of a LoRA's config is read here, or says nothing of its weights. Every other field must be off.
READ = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "modules_to_save"}
OF_TRAINING = {
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "task_type", "peft_type",
    "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "megatron_core",
    "qalora_group_size",
}  # fmt: skip
LEAVE_THE_BASE = (True, False, "gaussian", "orthogonal", "mica", "eva")  # ways to begin that do not change W
ALPHA = 8  # PEFT's, where the config has none


def refusal(config: dict[str, Any]) -> str | None:
    """Why the adapter of this PEFT config (of which fields may lack) cannot be read as weights; None where it can."""
    kind = str(config["peft_type"]).upper()
    if kind != "LORA":
        return f"{kind} adapters cannot be read as weights, only LoRA can"
    if config.get("init_lora_weights", True) not in LEAVE_THE_BASE:
        return f"init_lora_weights {config['init_lora_weights']!r} may change the base model"
    for name, value in config.items():
        off = not value or (name == "bias" and value == "none") or name == "init_lora_weights"
        if not off and name not in READ | OF_TRAINING:
            return f"{name} {value!r} is not supported (only W + scaling B A is)"
    return None


def takes_from_base(config: Mapping[str, Any]) -> bool:
    """Whether an adapter of this config begins with a part of the base's weights (cpt/pissa.py)."""
    kind, how = config.get("peft_type", config.get("kind")), config.get("init_lora_weights")
    is_lora = str(getattr(kind, "value", kind)).upper() == "LORA"
    return is_lora and isinstance(how, str) and (how.startswith("pissa") or how.lower() == "olora")


def scaling(config: dict[str, Any], module: str, rank: int) -> float:
    """The factor of B A in `module`, as PEFT has it. `rank` is that of its factors, so `rank_pattern` needs no look."""
    alpha, patterns = config.get("lora_alpha", ALPHA), config.get("alpha_pattern")
    if patterns:
        from peft.utils.other import get_pattern_key

        alpha = patterns.get(get_pattern_key(patterns, module), alpha)
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
