"""Rejection-sampling fine-tuning: sample answers, keep the verified ones, SFT on them with TRL's SFTTrainer; in rounds.

RFT (2308.01825) is one round. RAFT (2304.06767) continues from the present weights in each round: `start: present`. STaR
(2203.14465) samples from the model of the round before, but trains each round from the model it began with: `start:
stage-start`; its hints for unsolved prompts are not implemented. Unlike RAFT, which keeps the best answer even where none
is right, only verified answers are kept; unlike RFT, which compares equations, answers are the same only where their
texts are.

A round is a unit of resume. It is sealed in `stage.work` with its model, the records of all rounds so far and the strategies'
states; the round before it is then removed. The last round's model is the stage's.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from datasets import Dataset

from cpt import ranks, seeds
from cpt.context import Services, Stage
from cpt.data.encoding import Encoder, encoder_of
from cpt.data.rows import lesson
from cpt.errors import UserError
from cpt.files import DONE, copy_folder, is_intact, seal, write_json
from cpt.records import StageCost, StageRecord
from cpt.stages.checkpoints import peak_memory_bytes
from cpt.stages.configs import make_config
from cpt.stages.examples import teachable
from cpt.stages.sampling import made_once, verified
from cpt.stages.sft import train_on


def run(stage: Stage, services: Services, rows, strategies) -> StageRecord:
    """From `stage.source` to `stage.target`; returns the stage's record. Raises UserError, Interrupted."""
    records = resume(stage, services, strategies)
    for number in range(len(records) + 1, stage.spec.rounds + 1):
        present = folder_of(stage, number - 1) / "model" if number > 1 else stage.source
        mine, given = one_round(stage, services, number, present, records)
        records.append(train_round(mine, given, number, present, rows, strategies))
        if number < stage.spec.rounds:
            for strategy in strategies:
                strategy.save(folder_of(stage, number) / "strategies" / strategy.name)
            ranks.barrier()
            ranks.on_main(commit_round, stage, number, records)
    return one_record(records)


def train_round(stage: Stage, services: Services, number: int, present: Path, rows: Dataset, strategies) -> StageRecord:
    """Sample from the policy in `present`, train the one in `stage.source` on what is right; the round's record."""
    config = make_config(stage.recipe, stage.spec, stage.key, stage.work, stage.seed)
    encoder = encoder_of(stage)
    kept, spent = kept_answers(stage, services, encoder, number, present, rows, config.max_length)
    if not kept:
        return untrained(stage, services, number, present, spent)
    return train_on(stage, services, ((encoder, each) for each in kept), strategies, spent)


def untrained(stage: Stage, services: Services, number: int, present: Path, spent: StageCost) -> StageRecord:
    """A round that found no right answer, as its record: the policy in `present` is what it leaves."""
    services.screen.warn(
        f"{stage.task.name} {stage.name}: no answer of round {number} was right; the model is left as it was"
    )
    ranks.on_main(partial(shutil.rmtree, ignore_errors=True), stage.target)  # of a run killed before the stage's commit
    ranks.on_main(copy_folder, present, stage.target)
    costs = {"train_tokens": 0, "peak_memory_bytes": peak_memory_bytes()} | spent
    return {
        "task": stage.task.name,
        "stage": stage.name,
        "kind": stage.spec.kind,
        "steps": 0,
        **costs,
        "notes": services.notes,
    }


def kept_answers(
    stage: Stage,
    services: Services,
    encoder: Encoder,
    number: int,
    present: Path,
    rows: Dataset,
    max_length: int | None,
) -> tuple[list[dict], dict]:
    """{prompt, completion} of each answer that is trained on, and what they cost.

    Raises:
        UserError: no answer was right, and the recipe does not say to continue.
    """
    spec = stage.spec.samples
    what = f"answers, round {number} of {stage.spec.rounds}"

    def sampled() -> Iterator[dict]:
        for row, right, _ in verified(stage, services, rows, spec, present, max_length, what):
            distinct = list(dict.fromkeys(right))
            yield {
                "row": row,
                "right": len(right),
                "distinct": len(distinct),
                "kept": distinct[: spec.per_prompt],
            }

    asked, spent = made_once(stage, services, "answers", sampled)
    kept = [lesson(each["row"], text) for each in asked for text in each["kept"]]
    kept = teachable(stage, services, encoder, kept)
    if not kept and stage.spec.none_right == "stop":
        raise UserError(
            f"{stage.key}: none of the {len(asked) * spec.samples} answers sampled for {stage.task.name} was "
            "verified as correct, so there is nothing to train on: raise samples.prompts, samples.samples or "
            "samples.temperature, put a stage before it that teaches the task (sft on demonstrations), or set "
            "`none_right: skip`"
        )
    right, distinct = (sum(each[name] for each in asked) for name in ("right", "distinct"))
    solved = sum(each["right"] > 0 for each in asked)
    limit = stage.recipe.alarms.groups_without_signal
    if limit is not None and 1 - solved / len(asked) >= limit:
        services.screen.warn(
            f"{stage.task.name} {stage.name}, round {number}: only {solved} of {len(asked)} prompts got a right answer "
            f"(alarms.groups_without_signal: {limit:g}): the stage learns from these alone; take easier prompts, raise "
            "samples.samples, or put a stage before it that teaches the task"
        )
    services.notes.append(
        f"round {number}: {len(asked)} prompts x {spec.samples} answers sampled, {right} right, {distinct} distinct, "
        f"{len(kept)} kept; {solved / len(asked):.1%} of the prompts solved"
    )
    return kept, spent


# -- rounds --------------------------------------------------------------------------------------------------------------


def folder_of(stage: Stage, number: int) -> Path:
    return stage.work / f"round-{number}"


def one_round(
    stage: Stage, services: Services, number: int, present: Path, records: list[dict]
) -> tuple[Stage, Services]:
    """What one round is and may use; the steps that it logs and rewinds to continue from those of the rounds before."""
    steps = sum(record["steps"] for record in records)
    seconds = sum(record["seconds"] for record in records)

    def log(line: dict) -> None:
        went_on = {"step": line["step"] + steps, "max_steps": line["max_steps"] + steps}
        services.log(line | went_on | {"seconds": round(line["seconds"] + seconds, 3), "round": number})

    def log_during(line: dict) -> None:
        services.log_during(line | {"step": line["step"] + steps, "max_steps": line["max_steps"] + steps})

    folder = folder_of(stage, number)
    mine = replace(
        stage,
        source=present if stage.spec.start == "present" else stage.source,
        target=folder / "model" if number < stage.spec.rounds else stage.target,
        work=folder / "trainer",
        seed=seeds.derived(stage.seed, number),
    )
    rewind = lambda name, step: services.rewind(name, steps + step)  # noqa: E731
    return mine, replace(services, log=log, log_during=log_during, rewind=rewind, notes=[])


def commit_round(stage: Stage, number: int, records: list[StageRecord]) -> None:
    """Seal a finished round, and remove the one before it."""
    folder = folder_of(stage, number)
    shutil.rmtree(folder / "trainer")
    write_json(folder / "records.json", records)
    seal(folder)
    shutil.rmtree(folder_of(stage, number - 1), ignore_errors=True)


def resume(stage: Stage, services: Services, strategies) -> list[StageRecord]:
    """The records of the rounds that are sealed (the same on all ranks); the strategies are as they were after them."""
    number = ranks.on_main(last_sealed, stage, services)
    if number == 0:
        return []
    folder = folder_of(stage, number)
    for strategy in strategies:
        strategy.load(folder / "strategies" / strategy.name)
    return json.loads((folder / "records.json").read_text())


def last_sealed(stage: Stage, services: Services) -> int:
    """The last round that is whole, 0 where none is; what was made from a damaged one is removed, with a warning."""
    rounds = range(1, stage.spec.rounds + 1)
    last = max((number for number in rounds if is_intact(folder_of(stage, number))), default=0)
    for number in rounds[last:]:
        folder = folder_of(stage, number)
        damaged = (folder / DONE).exists()
        if damaged:
            services.screen.warn(
                f"{stage.task.name} {stage.name}: round {number} is damaged; resuming after round {last}"
            )
        if damaged or number > last + 1:
            shutil.rmtree(folder, ignore_errors=True)
    return last


def one_record(records: list[StageRecord]) -> StageRecord:
    """One record of all rounds: sums, the highest peak of memory, and every round's notes."""
    summed = ("steps", "train_tokens", "rollout_tokens")
    errors = sum((Counter(record["verifier_errors"]) for record in records), Counter())
    return records[-1] | {
        **{name: sum(record[name] for record in records) for name in summed},
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "peak_memory_bytes": max(record["peak_memory_bytes"] for record in records),
        "verifier_errors": dict(errors),
        "notes": [note for record in records for note in record["notes"]],
    }
