"""Rollout-based instance filtering before a stage (RIF-RFT, 2507.05386): prompts that teach nothing are not trained on.

Each training prompt is answered several times by the policy that the stage starts from, as training would sample it, and
judged by the task's reward. Sources disagree on what is dropped, so both are offered: prompts with no right answer
(all-wrong), or all prompts whose answers have one reward (zero-variance). What was found is written beside the stage's
checkpoints, so that a resumed stage trains on the same prompts. The rollouts themselves are not trained on.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from datasets import Dataset

from cpt import models, ranks
from cpt.data.rows import unpack
from cpt.errors import UserError
from cpt.stages.context import StageContext
from cpt.stages.generation import sampling_of
from cpt.stages.sampling import answers, made_once


def teaches(rewards: Sequence[float | None], drop: str) -> bool:
    """Whether a prompt whose answers got these rewards (None: unscorable) is kept; right is a reward of 1 or more."""
    scored = [reward for reward in rewards if reward is not None]
    if drop == "all-wrong":
        return any(reward >= 1 for reward in scored)
    return len(set(scored)) > 1


def filtered(ctx: StageContext, rows: Dataset, config) -> tuple[Dataset, dict, dict]:
    """The rows to train on, what finding them cost, and the record: {drop, prompts, kept, dropped: [row ids]}.

    Done once a stage and kept with its checkpoints; the same on all ranks. `config` is the GRPOConfig of the stage.

    Raises:
        UserError: fewer prompts are left than one generation takes.
        Interrupted: a signal came while prompts were rolled out.
    """
    judged, spent = made_once(ctx, "filter", lambda: _judge(ctx, rows, config))
    judged = sorted(judged)
    places = [place for place, _, kept in judged if kept]
    dropped = [row_id for _, row_id, kept in judged if not kept]
    record = {"drop": ctx.stage.filter.drop, "prompts": len(judged), "kept": len(places), "dropped": dropped}
    needed = config.generation_batch_size // config.num_generations
    if len(places) < needed:
        raise UserError(
            f"{ctx.key}: filter kept {len(places)} of {record['prompts']} prompts, and one generation takes {needed}: the "
            "others have no right answer, or answers of one reward only; raise filter.samples or filter.prompts, train on "
            "demonstrations first (a stage of kind sft), or lower per_device_train_batch_size"
        )
    ctx.notes.append(f"filter kept {len(places)} of {record['prompts']} prompts")
    return rows.select(places), spent, record


def _judge(ctx: StageContext, rows: Dataset, config) -> list[tuple[int, str, bool]]:
    """(place, row id, kept) of this rank's share of the prompts that are looked at."""
    spec = ctx.stage.filter
    order = np.random.default_rng(ctx.seed).permutation(len(rows))[: spec.prompts].tolist()
    places = order[ranks.state().process_index :: ranks.world_size()]
    mine = rows.select(places)
    looked_at = unpack(mine["prompt"], mine["row"])
    drawn = [row for row in looked_at for _ in range(spec.samples)]
    texts, finished = _answers(ctx, [row["prompt"] for row in drawn], config)
    rewards = ctx.score(texts, drawn, finished)
    groups = [rewards[first : first + spec.samples] for first in range(0, len(drawn), spec.samples)]
    kept = [teaches(group, spec.drop) for group in groups]
    return [(place, row["id"], keep) for place, row, keep in zip(places, looked_at, kept, strict=True)]


def _answers(ctx: StageContext, prompts: list, config) -> tuple[list[str], list[bool]]:
    """One answer for each prompt, sampled as the stage will sample, and whether it came to its end."""
    tokenizer = models.load_tokenizer(ctx.source, ctx.recipe)
    sampling = sampling_of(config, models.answer_stops(tokenizer, ctx.task.spec), config.generation_kwargs or {})
    sampling = replace(sampling, temperature=ctx.stage.filter.temperature)
    ids = models.encode_prompts(tokenizer, prompts, ctx.recipe)
    return answers(ctx, tokenizer, ids, sampling, ctx.source, "filter")
