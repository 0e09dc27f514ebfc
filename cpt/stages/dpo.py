"""Direct preference optimisation (2305.18290): TRL's DPOTrainer on given pairs, or on pairs made from the present model.

On-policy pairs: sample each prompt several times from the policy that the stage starts from, verify, and pair an answer
verified right with one verified wrong. They are written beside the stage's checkpoints, so that a resumed stage trains
on the same pairs.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
from datasets import Dataset
from trl import DPOTrainer
from trl.trainer import dpo_trainer

from cpt import models, ranks
from cpt.data.rows import completion_messages, unpack
from cpt.errors import UserError
from cpt.files import write_json
from cpt.rollouts import Sampling
from cpt.stages.configs import make_config
from cpt.stages.context import StageContext
from cpt.stages.training import (
    CountsTokens,
    all_errors,
    build,
    drop_reference_adapter,
    load_policy,
    train,
    with_template_options,
)

dpo_trainer.tqdm = lambda iterable, **_: iterable  # precompute_ref_log_probs would show a bar of its own


class DpoStageTrainer(CountsTokens, DPOTrainer):
    """DPOTrainer that says how many tokens it has trained on."""


def run(ctx: StageContext, rows, strategies) -> dict:
    """From `ctx.source` to `ctx.target`; returns the stage's record. Raises UserError, Interrupted."""
    config = make_config(ctx.recipe, ctx.stage, ctx.key, ctx.work, ctx.seed)
    spent = None
    if "chosen" not in rows.column_names:
        rows, spent = on_policy_pairs(ctx, rows, config.max_length)
    trainer = build(
        ctx,
        DpoStageTrainer,
        model=load_policy(ctx, ctx.reference),
        args=config,
        train_dataset=with_template_options(ctx, rows),
        processing_class=models.load_tokenizer(ctx.source, ctx.recipe),
    )
    drop_reference_adapter(trainer, ctx)
    return train(ctx, trainer, strategies, spent)


def on_policy_pairs(ctx: StageContext, rows: Dataset, max_length: int | None) -> tuple[Dataset, dict]:
    """Pairs of `prompt`, `chosen`, `rejected` from the policy in `ctx.source`, and what they cost.

    Made once a stage and kept with its checkpoints; the same on all ranks.

    Raises:
        UserError: no prompt had both a right and a wrong answer.
    """
    file = ctx.work / "pairs.json"
    if not ranks.broadcast(file.is_file()):
        start, tokens, errors = time.monotonic(), ctx.rollouts.rollout_tokens, Counter(ctx.verifier_errors)
        pairs = ranks.gather(list(_sample_pairs(ctx, rows, max_length)))
        tokens = sum(ranks.gather([ctx.rollouts.rollout_tokens - tokens]))
        errors = all_errors({}, ctx.verifier_errors - errors)
        spent = {"seconds": time.monotonic() - start, "rollout_tokens": tokens, "verifier_errors": errors}
        ranks.on_main(write_json, file, {"spent": spent, "pairs": pairs})
    made = json.loads(file.read_text(encoding="utf-8"))
    if not made["pairs"]:
        raise UserError(
            f"{ctx.key}: no prompt of {ctx.task.name} got both a right and a wrong answer, so there is nothing to prefer: "
            "raise pairs.prompts, pairs.samples or pairs.temperature, or leave the stage out"
        )
    ctx.notes.append(f"{len(made['pairs'])} on-policy pairs")
    return Dataset.from_list(made["pairs"]), made["spent"]


def _sample_pairs(ctx: StageContext, rows: Dataset, max_length: int | None) -> Iterator[dict]:
    """This rank's share of the pairs."""
    spec = ctx.stage.pairs
    order = np.random.default_rng(ctx.seed).permutation(len(rows))[: spec.prompts]
    mine = rows.select(order[ranks.state().process_index :: ranks.world_size()])
    drawn = [row for row in unpack(mine["prompt"], mine["row"]) for _ in range(spec.samples)]
    texts, finished = _sample(ctx, [row["prompt"] for row in drawn], max_length)
    values = ctx.score(texts, drawn, finished)
    for first in range(0, len(drawn), spec.samples):
        group = range(first, first + spec.samples)
        right = dict.fromkeys(texts[i] for i in group if finished[i] and values[i] is not None and values[i] >= 1)
        wrong = dict.fromkeys(texts[i] for i in group if finished[i] and values[i] is not None and values[i] < 1)
        prompt = drawn[first]["prompt"]
        for chosen, rejected in list(zip(right, wrong, strict=False))[: spec.per_prompt]:
            answers = {"chosen": chosen, "rejected": rejected}
            yield {"prompt": prompt} | {k: completion_messages(prompt, text) for k, text in answers.items()}


def _sample(ctx: StageContext, prompts: list, max_length: int | None) -> tuple[list[str], list[bool]]:
    """One sampled answer for each prompt, and whether it came to its end."""
    tokenizer = models.load_tokenizer(ctx.source, ctx.recipe)
    policy = models.load_policy(ctx.source, ctx.base, ctx.recipe, trainable=False).to(ranks.state().device)
    ids = models.encode_prompts(tokenizer, prompts, ctx.recipe)
    longest = max(ranks.gather([len(row) for row in ids]))  # of all ranks: fewer prompts than processes leave one idle
    room = (max_length or models.context_length(ctx.base, ctx.recipe) or 1024) - longest
    if room < 1:
        raise UserError(f"{ctx.key}: max_length {max_length} leaves no room for an answer after the longest prompt")
    limit = ctx.task.spec.max_completion_length or ctx.recipe.evaluation.max_completion_length
    seed = ctx.seed + ranks.state().process_index
    sampling = Sampling(
        max_tokens=min(room, limit),
        temperature=ctx.stage.pairs.temperature,
        seed=seed,
        stop_ids=models.answer_stops(tokenizer, ctx.task.spec),
    )
    ctx.rollouts.sync(policy, tokenizer)
    with ctx.screen.progress(f"{ctx.task.name} {ctx.name} pairs", len(ids), "answer") as bar:

        def on_done(count: int) -> None:
            bar.update(count)
            if ranks.world_size() == 1:  # several look when all have their answers: asking is a collective
                ctx.stop.check()

        completions = ctx.rollouts.generate(ids, sampling, on_done)
    ctx.rollouts.release()
    ctx.stop.check()
    texts = [tokenizer.decode(completion.token_ids, skip_special_tokens=True) for completion in completions]
    return texts, [completion.finished for completion in completions]
