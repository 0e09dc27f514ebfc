"""Rollout-based instance filtering before a stage (RIF-RFT, 2507.05386): prompts that teach nothing are not trained on.

Each training prompt is answered several times by the policy that the stage starts from, as training would sample it, and
judged by the task's reward. Sources disagree on what is dropped, so both are offered: prompts with no right answer
(all-wrong), or all prompts whose answers have one reward (zero-variance). What was found is written beside the stage's
checkpoints, so that a resumed stage trains on the same prompts. The rollouts themselves are not trained on.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from datasets import Dataset

from cpt import models, ranks
from cpt.data.rows import unpack
from cpt.errors import UserError
from cpt.files import write_json
from cpt.stages.context import StageContext
from cpt.stages.generation import sampling_of
from cpt.stages.training import all_errors


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
    file = ctx.work / "filter.json"
    if not ranks.broadcast(file.is_file()):
        start, tokens, errors = time.monotonic(), ctx.rollouts.rollout_tokens, Counter(ctx.verifier_errors)
        judged = sorted(ranks.gather(_judge(ctx, rows, config)))
        tokens = sum(ranks.gather([ctx.rollouts.rollout_tokens - tokens]))
        errors = all_errors({}, ctx.verifier_errors - errors)
        spent = {"seconds": time.monotonic() - start, "rollout_tokens": tokens, "verifier_errors": errors}
        ranks.on_main(write_json, file, {"spent": spent, "judged": judged})
    made = json.loads(file.read_text(encoding="utf-8"))
    places = [place for place, _, kept in made["judged"] if kept]
    dropped = [row_id for _, row_id, kept in made["judged"] if not kept]
    record = {"drop": ctx.stage.filter.drop, "prompts": len(made["judged"]), "kept": len(places), "dropped": dropped}
    needed = config.generation_batch_size // config.num_generations
    if len(places) < needed:
        raise UserError(
            f"{ctx.key}: filter kept {len(places)} of {record['prompts']} prompts, and one generation takes {needed}: the "
            "others have no right answer, or answers of one reward only; raise filter.samples or filter.prompts, train on "
            "demonstrations first (a stage of kind sft), or lower per_device_train_batch_size"
        )
    ctx.notes.append(f"filter kept {len(places)} of {record['prompts']} prompts")
    return rows.select(places), made["spent"], record


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
    policy = models.load_policy(ctx.source, ctx.base, ctx.recipe, trainable=False).to(ranks.state().device)
    stops = models.answer_stops(tokenizer, ctx.task.spec)
    sampling = replace(
        sampling_of(config, stops, config.generation_kwargs or {}),
        temperature=ctx.stage.filter.temperature,
        seed=ctx.seed + ranks.state().process_index,
    )
    ids = models.encode_prompts(tokenizer, prompts, ctx.recipe)
    ctx.rollouts.sync(policy, tokenizer)
    with ctx.screen.progress(f"{ctx.task.name} {ctx.name} filter", len(ids), "answer") as bar:

        def on_done(count: int) -> None:
            bar.update(count)
            if ranks.world_size() == 1:  # several look when all have their answers: asking is a collective
                ctx.stop.check()

        completions = ctx.rollouts.generate(ids, sampling, on_done)
    ctx.rollouts.release()
    ctx.stop.check()
    texts = tokenizer.batch_decode([completion.token_ids for completion in completions], skip_special_tokens=True)
    return texts, [completion.finished for completion in completions]
