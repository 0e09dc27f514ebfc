"""Whether a tokenizer can write a text at all: one that drops or replaces a character would train on something else."""


def first_unspellable(tokenizer, text: str) -> tuple[int, str] | None:
    """(position, character) of the first character that `tokenizer` maps to its unknown or padding token, or to nothing.

    Byte-level tokenizers spell every text; the check costs one encoding.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    strange = {tokenizer.unk_token_id, tokenizer.pad_token_id} - {None}
    covered = 0
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        gap = text[covered:start].strip()
        if gap:
            place = text.index(gap[0], covered)
            return place, text[place]
        if token in strange and text[start:end] not in (tokenizer.pad_token, tokenizer.unk_token):
            return start, text[start]
        covered = max(covered, end)
    rest = text[covered:].strip()
    return (text.rindex(rest), rest[0]) if rest else None
