"""What SFT and DPO train on: token ids by `data.encoding`, which TRL takes as they are, so that evaluation asks the same.

Labels of SFT: the answer where a row has prompt and answer, everything where it is a conversation (TRL's rule);
`completion_only_loss` and `assistant_only_loss` of `args` change that as they do in TRL. An answer of a conversation that
the chat template writes otherwise than it would ask for it (an earlier turn without its reasoning, say) is context only
under `assistant_only_loss`.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice

from cpt.context import Services, Stage
from cpt.data.encoding import Encoder, Taught
from cpt.data.roundtrip import failure
from cpt.data.rows import completion_text, prompt_text
from cpt.errors import UserError

CHUNK = 1000  # rows that are encoded at once
IGNORED = -100  # the label of a token that is not trained on


def sft_examples(lessons: Iterable[tuple[Encoder, dict]], config, context: int | None, key: str):
    """A `datasets.Dataset` of input_ids and labels, of {prompt, completion} or {messages} and the encoder of their task.

    `config` is the stage's SFTConfig, `context` the model's. Rows that lose their whole answer at the limit are left out;
    of a task with `overlong: drop` all that are longer.

    Raises:
        UserError: `assistant_only_loss` for a prompt that is sent raw.
    """
    limit = None if config.packing else limit_of(config, context)
    kept = part(limit, config)
    examples = (
        {"input_ids": taught.ids[kept], "labels": labels(encoder, form, taught, config, key)[kept]}
        for encoder, form, taught in encoded(lessons)
        if limit is None or len(taught.ids) <= limit or not encoder.drops_long
    )
    return dataset((each for each in examples if any(label != IGNORED for label in each["labels"])), key)


def limit_of(config, context: int | None) -> int | None:
    """The most tokens of a row: `max_length` of the config, and the model's context."""
    return min((each for each in (config.max_length, context) if each is not None), default=None)


def part(limit: int | None, config) -> slice:
    """What is kept of a row: its beginning, or its end."""
    if limit is None:
        return slice(None)
    return slice(-limit, None) if config.truncation_mode == "keep_end" else slice(None, limit)


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


def teachable(stage: Stage, services: Services, encoder: Encoder, made: list[dict]) -> list[dict]:
    """The lessons or pairs that teach what the policy answered. An answer of its own may be one that the chat template writes
    otherwise (it takes a reasoning out, say): it is left out, with a note and a warning. So may be one that holds a question
    of an evaluation (`data.contamination`).

    Raises:
        UserError: none is left, or one holds a question, and the recipe says to stop.
    """
    names = ("chosen", "rejected") if made and "chosen" in made[0] else ("completion",)
    wrong: dict[int, str] = {}
    for name in names:
        lessons = [each | {"completion": each[name]} for each in made]
        for place, (form, taught) in enumerate(zip(lessons, encoder.taught(lessons), strict=True)):
            problem = failure(encoder, form, taught)
            if problem is not None and problem.fatal:
                wrong[place] = problem.message
    if wrong:
        first = next(iter(wrong.values()))
        if len(wrong) == len(made):
            raise UserError(
                f"{stage.key}: none of {len(made)} sampled answers can be trained on as it was sampled: {first}"
            )
        note = (
            f"{len(wrong)} of {len(made)} sampled answers cannot be trained on as they were sampled, and are left out"
        )
        services.notes.append(note)
        services.screen.warn(f"{stage.task.name} {stage.name}: {note}, for example: {first}")
    return uncontaminated(stage, services, [each for place, each in enumerate(made) if place not in wrong], names)


def uncontaminated(stage: Stage, services: Services, made: list[dict], names: Sequence[str]) -> list[dict]:
    """What is trained on of sampled answers, some of which may hold questions of evaluations. Raises as `teachable`."""
    found = {
        place: holds
        for name in names
        for place, holds in services.leaks([completion_text(each[name]) for each in made]).items()
    }
    if not found:
        return made
    place, holds = min(found.items())
    note = f"{len(found)} of {len(made)} sampled answers hold a question of an evaluation"
    example = f"for example the answer to {prompt_text(made[place]['prompt'])[:80]!r} holds {holds}"
    action = stage.recipe.data.contamination
    if action == "stop" or (action == "drop" and len(found) == len(made)):
        raise UserError(
            f"{stage.key}: {note}, {example}: set `data.contamination: {'report' if action == 'drop' else 'drop'}`"
        )
    note += ", and are left out" if action == "drop" else ", and are trained on"
    services.notes.append(note)
    services.screen.warn(f"{stage.task.name} {stage.name}: {note}, {example}")
    return [each for place, each in enumerate(made) if action != "drop" or place not in found]


def dpo_examples(pairs: Iterable[tuple[Encoder, dict]], config, context: int | None, key: str):
    """A `datasets.Dataset` of prompt_ids, chosen_ids and rejected_ids, of {prompt, chosen, rejected}.

    `config` is the stage's DPOConfig, `context` the model's. Pairs that lose their answers at the limit are left out.
    """
    limit, kept = limit_of(config, context), part(limit_of(config, context), config)
    pairs = list(pairs)
    chosen, rejected = (encoded(side(pairs, name)) for name in ("chosen", "rejected"))
    examples = (
        {"prompt_ids": one.ids[: one.start], "chosen_ids": one.ids[one.start :], "rejected_ids": two.ids[two.start :]}
        for (*_, one), (*_, two) in zip(chosen, rejected, strict=True)
    )
    if limit is not None:
        examples = (shortened(each, limit, kept) for each in examples)
    return dataset((each for each in examples if each["chosen_ids"] or each["rejected_ids"]), key)


def shortened(example: dict[str, list[int]], limit: int, kept: slice) -> dict[str, list[int]]:
    """The pair with no more tokens than `limit` on either side; both sides keep the same of their prompt."""
    prompt, answers = example["prompt_ids"], {name: example[name] for name in ("chosen_ids", "rejected_ids")}
    if kept.start is None:  # the beginning is kept
        return {"prompt_ids": prompt} | {name: ids[: max(0, limit - len(prompt))] for name, ids in answers.items()}
    room = max(0, limit - max(map(len, answers.values())))
    return {"prompt_ids": prompt[len(prompt) - room :] if room else []} | {
        name: ids[kept] for name, ids in answers.items()
    }


def side(pairs: Iterable[tuple[Encoder, dict]], name: str) -> Iterator[tuple[Encoder, dict]]:
    """The lessons of one side of these pairs."""
    for encoder, pair in pairs:
        rest = {key: value for key, value in pair.items() if key not in ("chosen", "rejected")}
        yield encoder, rest | {"completion": pair[name]}


def dataset(examples: Iterable[dict[str, list[int]]], key: str):
    """In memory, as Arrow holds it: lists of Python's integers would take ten times as much.

    Raises:
        UserError: no example is left.
    """
    import datasets

    examples, parts = iter(examples), []
    while chunk := list(islice(examples, CHUNK)):
        columns = {name: [example[name] for example in chunk] for name in chunk[0]}
        features = datasets.Features(dict.fromkeys(columns, datasets.List(datasets.Value("int32"))))
        parts.append(datasets.Dataset.from_dict(columns, features))
    if not parts:
        raise UserError(f"{key}: no row has any part of its answer within the limit: raise args.max_length")
    return datasets.concatenate_datasets(parts)
