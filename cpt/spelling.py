"""Whether a tokenizer can write a text at all: one that drops or replaces a character would train on something else."""

from collections.abc import Iterator, Sequence


def unspellable(tokenizer, texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(number of the text, position) of the first character of each text that `tokenizer` cannot spell.

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
