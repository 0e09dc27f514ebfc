"""Answers sampled with the run's engine and verified: what pairs, rejection sampling and the filter are made of."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from cpt import models, ranks
from cpt.context import Services, Stage
from cpt.data.encoding import encoder_of
from cpt.data.rows import unpack
from cpt.disk import remove
from cpt.errors import UserError
from cpt.files import read_sealed, write_sealed
from cpt.recipe import Pairs, Samples
from cpt.rollouts import Completion, Sampling
from cpt.stages.checkpoints import all_errors


class Verified(NamedTuple):
    """The answers to one prompt that came to their end and could be scored; each as often as it was drawn."""

    row: dict
    right: list[str]  # a score of 1 or more
    wrong: list[str]


def made_once(stage: Stage, services: Services, name: str, make: Callable[[], Iterator]) -> tuple[list, dict]:
    """What `make` gives on all ranks, joined, and what it cost: {seconds, rollout_tokens, verifier_errors}.

    Made once and kept with the checkpoints as NAME.json, so that a resumed stage trains on the same; equal on all ranks.
    """
    file = stage.work / f"{name}.json"
    content = ranks.on_main(read_made, stage, services, file)
    if content is None:
        start, tokens, errors = time.monotonic(), services.engine.rollout_tokens, Counter(services.verifier_errors)
        made = ranks.gather(list(make()))
        tokens = sum(ranks.gather([services.engine.rollout_tokens - tokens]))
        errors = all_errors({}, services.verifier_errors - errors)
        spent = {"seconds": time.monotonic() - start, "rollout_tokens": tokens, "verifier_errors": errors}
        ranks.on_main(write_sealed, file, {"spent": spent, name: made})
        content = ranks.on_main(read_made, stage, services, file)
    return content[name], content["spent"]


def read_made(stage: Stage, services: Services, file: Path) -> dict | None:
    """What was made once; None where it is not there, or, with a warning, where it is damaged."""
    try:
        return read_sealed(file)
    except ValueError as error:
        services.screen.warn(f"{stage.task.name} {stage.name}: {error}; sampling again")
        remove(file)
        return None


def verified(
    stage: Stage,
    services: Services,
    rows: Dataset,
    spec: Pairs | Samples,
    source: Path,
    max_length: int | None,
    what: str,
) -> Iterator[Verified]:
    """This rank's share: `spec.samples` answers to each of `spec.prompts` prompts, from the policy in `source`."""
    order = np.random.default_rng(stage.seed).permutation(len(rows))[: spec.prompts]
    mine = rows.select(order[ranks.state().process_index :: ranks.world_size()])
    drawn = [row for row in unpack(mine["prompt"], mine["row"]) for _ in range(spec.samples)]
    texts, finished = sample(stage, services, drawn, spec.temperature, source, max_length, what)
    values = services.score(texts, drawn, finished)
    for first in range(0, len(drawn), spec.samples):
        group = [i for i in range(first, first + spec.samples) if finished[i] and values[i] is not None]
        right = [texts[i] for i in group if values[i] >= 1]
        yield Verified(drawn[first], right, [texts[i] for i in group if values[i] < 1])


def sample(
    stage: Stage,
    services: Services,
    rows: list[dict],
    temperature: float,
    source: Path,
    max_length: int | None,
    what: str,
) -> tuple[list[str], list[bool]]:
    """One sampled answer for each row's prompt, and whether it came to its end."""
    encoder = encoder_of(stage)
    ids = encoder.prompts(rows)
    longest = max(ranks.gather([len(row) for row in ids]))  # of all ranks: fewer prompts than processes leave one idle
    room = (max_length or models.context_length(stage.base, stage.recipe) or 1024) - longest
    if room < 1:
        raise UserError(f"{stage.key}: max_length {max_length} leaves no room for an answer after the longest prompt")
    limit = stage.task.spec.max_completion_length or stage.recipe.evaluation.max_completion_length
    sampling = Sampling(max_tokens=min(room, limit), temperature=temperature, stop_ids=encoder.stops)
    completions = answers(stage, services, encoder.tokenizer, ids, sampling, source, what)
    texts = [encoder.text(completion.token_ids) for completion in completions]
    return texts, [completion.finished for completion in completions]


def answers(
    stage: Stage, services: Services, tokenizer, ids: list[list[int]], sampling: Sampling, source: Path, what: str
) -> list[Completion]:
    """One answer of the policy in `source` to each prompt, drawn by the stage's and the rank's own seed."""
    sampling = replace(sampling, seed=stage.seed + ranks.state().process_index)
    with services.screen.progress(f"{stage.task.name} {stage.name} {what}: loading the model"):
        policy = models.load_policy(source, stage.base, stage.recipe, trainable=False).to(ranks.state().device)
        services.engine.sync(policy, tokenizer)
    with services.screen.progress(f"{stage.task.name} {stage.name} {what}", len(ids), "answer") as bar:

        def on_done(count: int) -> None:
            bar.update(count)
            if ranks.world_size() == 1:  # several look when all have their answers: asking is a collective
                services.stop.check()

        completions = services.engine.generate(ids, sampling, on_done)
    services.engine.release()
    services.stop.check()
    return completions
