"""What SFT and DPO train on: token ids by `data.encoding`, which TRL takes as they are, so that evaluation asks the same.

Labels of SFT: the answer where a row has prompt and answer, everything where it is a conversation (TRL's rule);
`completion_only_loss` and `assistant_only_loss` of `args` change that as they do in TRL. An answer of a conversation that
the chat template writes otherwise than it would ask for it (an earlier turn without its reasoning, say) is context only
under `assistant_only_loss`.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby, islice

from cpt.data.encoding import Encoder, Taught
from cpt.errors import UserError

CHUNK = 1000  # rows that are encoded at once
IGNORED = -100  # the label of a token that is not trained on


def sft_examples(lessons: Iterable[tuple[Encoder, dict]], config, key: str):
    """A `datasets.Dataset` of input_ids and labels, of {prompt, completion} or {messages} and the encoder of their task.

    `config` is the stage's SFTConfig. Raises UserError for a row to which it does not apply.
    """
    return dataset(
        {"input_ids": taught.ids, "labels": labels(encoder, form, taught, config, key)}
        for encoder, form, taught in encoded(lessons)
    )


def encoded(lessons: Iterable[tuple[Encoder, dict]]) -> Iterator[tuple[Encoder, dict, Taught]]:
    """Each lesson with what is taught of it; many are encoded at once."""
    for encoder, mine in groupby(lessons, lambda lesson: lesson[0]):
        forms = (form for _, form in mine)
        while chunk := list(islice(forms, CHUNK)):
            yield from ((encoder, form, taught) for form, taught in zip(chunk, encoder.taught(chunk), strict=True))


def labels(encoder: Encoder, form: dict, taught: Taught, config, key: str) -> list[int]:
    """The ids that are trained on, and IGNORED for the others."""
    if config.assistant_only_loss:
        if not encoder.is_chat(form):
            raise UserError(f"{key}.args.assistant_only_loss: is for chats, and the prompts of this task are sent raw")
        spans, _ = encoder.answers(form, taught)
        trained = {place for start, end in spans for place in range(max(start, taught.start), end)}
        return [each if place in trained else IGNORED for place, each in enumerate(taught.ids)]
    start = 0 if config.completion_only_loss is False else taught.start
    return [IGNORED] * start + taught.ids[start:]


def dpo_examples(pairs: Iterable[tuple[Encoder, dict]]):
    """A `datasets.Dataset` of prompt_ids, chosen_ids and rejected_ids, of {prompt, chosen, rejected}."""
    pairs = list(pairs)
    chosen, rejected = (encoded(side(pairs, name)) for name in ("chosen", "rejected"))
    return dataset(
        {"prompt_ids": one.ids[: one.start], "chosen_ids": one.ids[one.start :], "rejected_ids": two.ids[two.start :]}
        for (*_, one), (*_, two) in zip(chosen, rejected, strict=True)
    )


def side(pairs: Iterable[tuple[Encoder, dict]], name: str) -> Iterator[tuple[Encoder, dict]]:
    """The lessons of one side of these pairs."""
    for encoder, pair in pairs:
        rest = {key: value for key, value in pair.items() if key not in ("chosen", "rejected")}
        yield encoder, rest | {"completion": pair[name]}


def dataset(examples: Iterable[dict[str, list[int]]]):
    """In memory, as Arrow holds it: lists of Python's integers would take ten times as much."""
    import datasets

    examples, parts = iter(examples), []
    while chunk := list(islice(examples, CHUNK)):
        columns = {name: [example[name] for example in chunk] for name in chunk[0]}
        features = datasets.Features(dict.fromkeys(columns, datasets.List(datasets.Value("int32"))))
        parts.append(datasets.Dataset.from_dict(columns, features))
    return datasets.concatenate_datasets(parts)
