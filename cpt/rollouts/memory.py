"""What the batches of `engine: transformers` take of memory, from a model's config.json. No heavy import."""

from collections.abc import Mapping, Sequence
from typing import Any

from cpt.recipe import Recipe, TransformersRollouts
from cpt.sizes import size

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
NAMES = {  # what the configs of the families call it; the first name that is there counts
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "vocabulary": ("vocab_size",),
}


def batch_text(recipe: Recipe, config: Mapping[str, Any]) -> str:
    """The engine and its largest batch, with the memory of that where `config`, the model's, says it."""
    rollouts = recipe.rollouts
    if not isinstance(rollouts, TransformersRollouts):
        return rollouts.engine
    text = f"{rollouts.engine}, batches of up to {rollouts.batch_size} prompts and {rollouts.batch_tokens:,} tokens"
    each = value_bytes(recipe.model.dtype, config)
    token, prompt = cache_bytes(config, each), logit_bytes(config, each)
    if token is None or prompt is None:
        return text
    taken = rollouts.batch_tokens * token + rollouts.batch_size * prompt
    return f"{text} ({size(taken)} of KV cache and logits)"


def value_bytes(dtype: str, config: Mapping[str, Any]) -> int:
    """Bytes of a weight, and of what is computed with it; of dtype auto what the model's config says."""
    return WIDTHS.get(config.get("dtype") or config.get("torch_dtype") if dtype == "auto" else dtype, 4)


def cache_bytes(config: Mapping[str, Any], value_bytes: int) -> int | None:
    """Bytes of the KV cache of one token, from a model's config.json; None where the config does not say it.

    Layers that share, compress or lack a cache take less.
    """
    layers, heads, width = (number(config, NAMES[name]) for name in ("layers", "heads", "width"))
    if not (layers and heads and width):
        return None
    of_a_head = number(config, ("head_dim",)) or width // heads
    return 2 * layers * (number(config, ("num_key_value_heads",)) or heads) * of_a_head * value_bytes


def logit_bytes(config: Mapping[str, Any], value_bytes: int) -> int | None:
    """Bytes of the next token's logits of one prompt: the model's own and the float32 copy that is chosen from."""
    vocabulary = number(config, NAMES["vocabulary"])
    return vocabulary and vocabulary * (value_bytes + 4)


def number(config: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """The first of these keys of the language model that is a number."""
    text = config.get("text_config")
    here = text if isinstance(text, dict) else config
    return next((here[name] for name in names if isinstance(here.get(name), int)), None)
