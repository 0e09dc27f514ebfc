"""Rollout-based instance filtering before a stage (RIF-RFT, 2507.05386): prompts that teach nothing are not trained on.

Each training prompt is answered several times by the policy that the stage starts from, as training would sample it, and
scored by the task's reward. Sources disagree on what is dropped, so both are offered: prompts with no right answer
(all-wrong), or all prompts whose answers have one reward (zero-variance). What was found is written beside the stage's
checkpoints, so that a resumed stage trains on the same prompts.

The rollouts are the start's own, so they are trained on as long as the policy is the start: they are the stage's first
generation (`InitialRollouts`). Later ones would be off-policy. That a prompt was kept for what its rollouts showed biases
this one batch as dynamic sampling biases all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from cpt import ranks
from cpt.context import Services, Stage
from cpt.data.encoding import encoder_of
from cpt.data.rows import unpack
from cpt.errors import UserError
from cpt.rollouts import Completion
from cpt.stages.generation import sampling_of
from cpt.stages.sampling import answers, made_once


class Rollout(NamedTuple):
    """Token ids, and the sampler's logprobs where it is not the policy itself."""

    ids: list[int]
    logprobs: list[float] | None


@dataclass(frozen=True)
class InitialRollouts:
    """The rows that a stage's first generation takes, and the rollouts of each: {packed row: num_generations of them}."""

    rollouts: dict[str, list[Rollout]]

    def of(self, inputs: list[dict], first: int) -> list[Rollout] | None:
        """Those of these rows, which are repeated for their groups from place `first` on; None where one is not there."""
        if any(x["row"] not in self.rollouts for x in inputs):
            return None
        return [self.rollouts[x["row"]][(first + i) % len(self.rollouts[x["row"]])] for i, x in enumerate(inputs)]


def teaches(rewards: Sequence[float | None], drop: str) -> bool:
    """Whether a prompt whose answers got these rewards (None: unscorable) is kept; right is a reward of 1 or more."""
    scored = [reward for reward in rewards if reward is not None]
    if drop == "all-wrong":
        return any(reward >= 1 for reward in scored)
    return len(set(scored)) > 1


def filtered(stage: Stage, services: Services, rows: Dataset, config) -> tuple[Dataset, InitialRollouts, dict, dict]:
    """The rows to train on, the initial rollouts, what finding them cost, and the record: {drop, prompts, kept, dropped,
    opening}, with `dropped` their ids and `opening` how many prompts the first generation has from here.

    Done once a stage and kept with its checkpoints; the same on all ranks. `config` is the GRPOConfig of the stage. The
    rows of the initial rollouts come first.

    Raises:
        UserError: fewer prompts are left than one generation takes.
        Interrupted: a signal came while prompts were rolled out.
    """
    tried, spent = made_once(stage, services, "filter", lambda: _try_prompts(stage, services, rows, config))
    tried = sorted(tried)
    places = [place for _, place, _, kept, _ in tried if kept]
    dropped = [
        row_id for _, row_id, kept in sorted((place, row_id, kept) for _, place, row_id, kept, _ in tried) if not kept
    ]
    needed = _prompts(config)
    if len(places) < needed:
        raise UserError(
            f"{stage.key}: filter kept {len(places)} of {len(tried)} prompts, and one generation needs {needed}: "
            "the others have no right answer, or only answers of equal reward; raise filter.samples or "
            "filter.prompts, train on demonstrations first (a stage of kind sft), or lower "
            "per_device_train_batch_size"
        )
    first = [(place, rollouts) for _, place, _, kept, rollouts in tried if kept][
        : needed if _are_trained_on(stage, config) else 0
    ]
    initial = InitialRollouts({rows[place]["row"]: [Rollout(*each) for each in rollouts] for place, rollouts in first})
    begins = [place for place, _ in first]
    places = begins + sorted(set(places) - set(begins))
    record = {"drop": stage.spec.filter.drop, "prompts": len(tried), "kept": len(places), "dropped": dropped}
    services.notes.append(f"filter kept {len(places)} of {len(tried)} prompts")
    return rows.select(places), initial, spent, record | {"opening": len(begins)}


def _prompts(config) -> int:
    return config.generation_batch_size // config.num_generations


def _are_trained_on(stage: Stage, config) -> bool:
    """Whether the stage's first generation can be of these rollouts: drawn as it would draw them, and as many."""
    spec = stage.spec.filter
    alike = spec.samples >= config.num_generations and spec.temperature == config.temperature
    return alike and config.shuffle_dataset and stage.spec.dynamic_sampling is None


def _try_prompts(stage: Stage, services: Services, rows: Dataset, config) -> list[tuple]:
    """(turn, place, row id, kept, rollouts) of this rank's share of the prompts that are looked at, turn by turn.

    The rollouts of as many kept prompts stay as one generation takes: no more can be needed, on whatever rank they are.
    """
    spec = stage.spec.filter
    order = np.random.default_rng(stage.seed).permutation(len(rows))[: spec.prompts].tolist()
    turns = range(ranks.state().process_index, len(order), ranks.world_size())
    mine = rows.select([order[turn] for turn in turns])
    looked_at = unpack(mine["prompt"], mine["row"])
    drawn = [row for row in looked_at for _ in range(spec.samples)]
    texts, completions = _answers(stage, services, drawn, config)
    rewards = services.score(texts, drawn, [completion.finished for completion in completions])
    tried, room = [], _prompts(config)
    for number, (turn, row) in enumerate(zip(turns, looked_at, strict=True)):
        group = slice(number * spec.samples, (number + 1) * spec.samples)
        kept = teaches(rewards[group], spec.drop)
        stays = completions[group][: config.num_generations] if kept and room > 0 else []
        room -= kept
        tried.append((turn, order[turn], row["id"], kept, [(each.token_ids, each.logprobs) for each in stays]))
    return tried


def _answers(stage: Stage, services: Services, rows: list[dict], config) -> tuple[list[str], list[Completion]]:
    """One answer for each row's prompt, sampled as the stage will sample, as text and as it was made."""
    encoder = encoder_of(stage)
    sampling = sampling_of(config, encoder.stops, config.generation_kwargs or {})
    sampling = replace(sampling, temperature=stage.spec.filter.temperature, logprobs=services.engine.corrected)
    completions = answers(stage, services, encoder.tokenizer, encoder.prompts(rows), sampling, stage.source, "filter")
    return [encoder.text(completion.token_ids) for completion in completions], completions
