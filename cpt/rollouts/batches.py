"""Which prompts an engine continues together, and what memory that takes. No heavy import.

The arithmetic of a row depends on the size and the width of its batch: in bfloat16 that changes one greedy answer in ten. So
batches are made of the lengths of the prompts alone, by a rule that knows no machine and no free memory: the same prompts are
continued in the same batches everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMES = {  # what the configs of the families call it; the first name that is there counts
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "vocabulary": ("vocab_size",),
}


@dataclass(frozen=True)
class Limits:
    """The largest batch: `prompts` at most and, padding and whole answers included, `tokens` at most (None: any number).

    A prompt that has more tokens by itself is a batch by itself.
    """

    prompts: int
    tokens: int | None = None


def batches(lengths: Sequence[int], answer: int, limits: Limits) -> list[list[int]]:
    """The places of the prompts of each batch, for prompts of `lengths` tokens and answers of up to `answer`.

    The longest come first: an out-of-memory error comes at once, and the prompts of one batch are of similar length.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    found: list[list[int]] = []
    while order:
        width = lengths[order[0]] + answer
        fitting = limits.prompts if limits.tokens is None else limits.tokens // width
        number = max(1, min(limits.prompts, fitting))
        found.append(order[:number])
        order = order[number:]
    return found


def cache_bytes(config: Mapping[str, Any], value_bytes: int) -> int | None:
    """Bytes of the KV cache of one token, from a model's config.json; None where the config does not say it.

    Layers that share, compress or lack a cache take less.
    """
    text = config.get("text_config") or config
    layers, heads, width = (first_of(text, NAMES[name]) for name in ("layers", "heads", "width"))
    if not (layers and heads and width):
        return None
    of_a_head = text.get("head_dim") or width // heads
    return 2 * layers * (text.get("num_key_value_heads") or heads) * of_a_head * value_bytes


def logit_bytes(config: Mapping[str, Any], value_bytes: int) -> int | None:
    """Bytes of the next token's logits of one prompt: the model's own and the float32 copy that is chosen from."""
    vocabulary = first_of(config.get("text_config") or config, NAMES["vocabulary"])
    return vocabulary and vocabulary * (value_bytes + 4)


def first_of(config: Mapping[str, Any], names: Sequence[str]) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)
