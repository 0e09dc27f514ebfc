"""A model's head: a tensor of its own, or the embedding itself (tied), or lost. Its config and its weights say which.

transformers ties where the config says `tie_word_embeddings`, or, where it does not say, where the model's class does so by
default; and not where the weights hold a head that differs from the embedding.
"""

from pathlib import Path

import torch

from cpt.errors import UserError
from cpt.merging.reading import Weights, read_config

HEAD = "lm_head.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # the ends of the classes that have a head
PIECE = 1 << 24  # bytes that are compared at a time


def ties_its_head(folder: Path) -> bool:
    """Whether the model in `folder` ties the head to the embedding: its config says so, or transformers' default for it.

    Raises:
        UserError: the config does not say, and is of a model that transformers does not know.
    """
    file = folder / "config.json"
    config = read_config(file) if file.is_file() else {}
    tied = config.get("tie_word_embeddings", (config.get("text_config") or {}).get("tie_word_embeddings"))
    return tied is True if tied is not None or not config else default_tie(file, config.get("model_type"))


def default_tie(file: Path, kind: str | None) -> bool:
    """What transformers takes for models of `kind` where the config does not set `tie_word_embeddings`."""
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"{file}: does not say whether the head is tied to the embedding, and transformers does not know the model_type "
            f"{kind!r}: write tie_word_embeddings true or false into it"
        )
    return bool(getattr(CONFIG_MAPPING[kind](), "tie_word_embeddings", False))


def names_of(source: Weights) -> dict[str, str]:
    """Each tensor's name, without a head that is the embedding (whether it was saved or not).

    Raises:
        UserError: the head is not tied to the embedding, and the weights have none.
    """
    names, embeddings = {name: name for name in source.entries}, embeddings_of(source)
    if not embeddings:
        return names
    if not ties_its_head(source.model):
        if HEAD not in names and is_headless(source, embeddings[0]):
            raise UserError(
                f"{source.model}: the config does not tie the head to the embedding, and the weights have no {HEAD}: it was "
                "lost when the model was saved. Save it again, or write tie_word_embeddings true if it was the embedding"
            )
    elif HEAD in names and len(embeddings) == 1 and are_equal(source, HEAD, embeddings[0]):
        del names[HEAD]
    return names


def is_embedding(name: str) -> bool:
    return name.endswith(EMBEDDINGS)


def embeddings_of(source: Weights) -> list[str]:
    return list(filter(is_embedding, source.entries))


def is_headless(source: Weights, embedding: str) -> bool:
    """Whether a language model has no matrix, beside its embedding, with a row for each token."""
    classes = read_config(source.model / "config.json").get("architectures") or [LANGUAGE_MODELS[0]]
    tokens = source.entries[embedding].shape[0]
    others = (entry.shape for name, entry in source.entries.items() if name != embedding)
    return classes[0].endswith(LANGUAGE_MODELS) and not any(len(s) == 2 and s[0] == tokens for s in others)


def are_equal(source: Weights, one: str, other: str) -> bool:
    """Whether two tensors are the same, bit for bit."""
    entries = [source.entries[name] for name in (one, other)]
    if (entries[0].dtype, entries[0].shape) != (entries[1].dtype, entries[1].shape):
        return False
    with source:
        for start in range(0, entries[0].bytes, PIECE):
            pieces = [torch.empty(min(PIECE, entries[0].bytes - start), dtype=torch.uint8) for _ in entries]
            for name, piece in zip((one, other), pieces, strict=True):
                source.read(name, start, piece)
            if not torch.equal(*pieces):
                return False
    return True


def tied_to(source: Weights) -> str:
    """The embedding that is the head. Raises UserError where there is none, or more than one."""
    embeddings = embeddings_of(source)
    if len(embeddings) != 1:
        raise UserError(f"{source.place}: has no {HEAD}, and no embedding that it could be tied to")
    return embeddings[0]
