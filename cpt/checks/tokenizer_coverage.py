"""Whether a tokenizer can write a text at all: one that drops or replaces a character would train on something else."""

import json
from collections.abc import Iterator, Sequence


def lost_bytes(tokenizer) -> frozenset[int] | None:
    """The bytes that a tokenizer of bytes has no token for: a text of others is encoded in full, and need not be checked.

    None where the tokenizer splits into something else than bytes, or may take letters out of a text before that.
    """
    if not tokenizer.is_fast:
        return None
    backend, vocabulary = tokenizer.backend_tokenizer, tokenizer.get_vocab()
    if backend.normalizer is not None and not all(map(is_harmless, parts(state(backend.normalizer)))):
        return None
    if backend.pre_tokenizer is not None and '"ByteLevel"' in json.dumps(state(backend.pre_tokenizer)):
        return frozenset(byte for byte, letter in enumerate(byte_letters()) if letter not in vocabulary)
    if getattr(backend.model, "byte_fallback", False):
        return frozenset(byte for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary)
    return None


def byte_letters() -> list[str]:
    """The letter that GPT-2's byte-level BPE writes for each byte: itself where it can be seen, else one from 256 on."""
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in seen else chr(next(others)) for byte in range(256)]


def state(part) -> dict:
    """A normalizer or pre-tokenizer, as the tokenizers library writes it."""
    return json.loads(part.__getstate__())


def parts(normalizer: dict) -> Iterator[dict]:
    """The steps of a normalizer."""
    if normalizer["type"] == "Sequence":
        yield from (part for each in normalizer["normalizers"] for part in parts(each))
    else:
        yield normalizer


def is_harmless(normalizer: dict) -> bool:
    """Whether the step of a normalizer keeps all letters: composed forms, and SentencePiece's sign for a space."""
    if normalizer["type"] == "Replace":
        return normalizer["pattern"] == {"String": " "} and normalizer["content"] == "\u2581"
    return normalizer["type"] in ("NFC", "Prepend")


def unspellable(tokenizer, texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(number of the text, position) of the first character of each text that `tokenizer` cannot encode.

    Such a character becomes the unknown or the padding token, or nothing at all. All texts are encoded in one call.
    Tokenizers written in Python tell no offsets: of them only unknown and padding tokens are seen.
    """
    strange = {tokenizer.unk_token_id, tokenizer.pad_token_id} - {None}
    if not texts:
        return
    if not tokenizer.is_fast:
        yield from _by_letter(tokenizer, texts, strange)
        return
    named = {tokenizer.pad_token, tokenizer.unk_token}  # a text may spell them out
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    for number, (ids, spans) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)):
        text, covered, lost = texts[number], 0, None
        for token, (start, end) in zip(ids, spans, strict=True):
            if start > covered and (gap := text[covered:start].strip()):
                lost = text.index(gap[0], covered)
            elif token in strange and text[start:end] not in named:
                lost = start
            if lost is not None:
                break
            covered = max(covered, end)
        if lost is None and (rest := text[covered:].strip()):
            lost = text.rindex(rest)
        if lost is not None:
            yield number, lost


def _by_letter(tokenizer, texts: Sequence[str], strange: set[int]) -> Iterator[tuple[int, int]]:
    def is_strange(text: str) -> bool:
        return not strange.isdisjoint(tokenizer(text, add_special_tokens=False)["input_ids"])

    for number, text in enumerate(texts):
        if is_strange(text):
            yield number, next((i for i, letter in enumerate(text) if is_strange(letter)), 0)
