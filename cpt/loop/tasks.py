"""Train one task: stage after stage, what the strategies make of each, and the commit."""

import gc
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cpt import ranks, seeds, stages
from cpt.context import Services, Stage
from cpt.data.stream import TaskData, stage_rows
from cpt.errors import UserError
from cpt.evaluation import attempts
from cpt.files import replace_folder
from cpt.loop.rows import asker_of, evaluate_on_validation
from cpt.loop.state import Run
from cpt.mending import mend_task
from cpt.progress import pace_text
from cpt.recipe.evaluation import Retry
from cpt.records import MergeRecord, StageRecord
from cpt.rewards import Scorer, TaskScorers
from cpt.rundir import Point, RunDir, points_of
from cpt.stages.rehearsal import rehearse
from cpt.stop import PROMPT
from cpt.strategies import Strategy


def train_task(this: Run, point: Point) -> None:
    """Train one task: stage after stage, each committed when it ends, then the point."""
    spec = this.recipe.stream[point.index - 1]
    before = points_of(this.recipe)[point.index - 1]
    states = this.rundir.states(before)
    ranks.on_main(mend_task, this.rundir, point, stage_names(this, point), this.screen.warn)
    for index in range(len(spec.stages)):
        stage = stage_of(this, point, index)
        services = services_of(this, point)
        if not ranks.on_main(this.rundir.stage_committed, point, stage.name):
            load_states(this, states)
            # `train` takes more time than PROMPT, from its first step until the stage is committed.
            with this.stop.within(PROMPT), this.screen.progress(f"{point.task} {stage.name}: loading or saving"):
                record = run_stage(this, stage, services)
                save_states(this, stage.target.parent / "strategies")
                ranks.on_main(this.rundir.commit_stage, point, stage.name, record)
            this.stop.check()
        states = stage.target.parent / "strategies"
    with this.screen.progress(f"{point.name}: {'merging and ' * bool(this.strategies)}committing"):
        finish_task(this, point, stage, services, states)


def finish_task(this: Run, point: Point, stage: Stage, services: Services, states: Path) -> None:
    """What the strategies make of the last stage's model, committed as the point. `states` are theirs, after that stage."""
    load_states(this, states)
    model, served, merges = stage.target, None, []
    change = ranks.on_main(attempts.change_of, this.rundir, this.recipe, point)
    for strategy in (*this.strategies, *retry_merges(this, change)):
        if (outcome := strategy.after_task(stage, services, model)) is not None:
            model = outcome.folder or model
            served = outcome.served or served
            merges += [] if outcome.record is None else [outcome.record]
    served = None if served == model else served
    states = this.rundir.work(point) / "strategies"
    save_states(this, states)
    ranks.on_main(commit, this, point, model, served, states, merges)


def retry_merges(this: Run, change: Retry | None) -> list[Strategy]:
    """The merge that an attempt makes after the recipe's strategies."""
    spec = attempts.merge_of(change)
    return [] if spec is None else [spec.implemented()(this.recipe, spec, "retry-merge")]


def load_states(this: Run, folder: Path) -> None:
    for strategy in this.strategies:
        strategy.load(folder / strategy.name)


def save_states(this: Run, folder: Path) -> None:
    ranks.on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
    for strategy in this.strategies:
        strategy.save(folder / strategy.name)
    ranks.barrier()


def commit(
    this: Run, point: Point, model: Path, served: Path | None, states: Path, merges: Sequence[MergeRecord]
) -> None:
    records = [this.rundir.stage_record(point, name) for name in stage_names(this, point)]
    add_merges(records[-1], merges)
    this.rundir.commit(point, model, records, states, served)


def add_merges(record: StageRecord, merges: Sequence[MergeRecord]) -> None:
    """Add to the record of a stage what strategies have merged: after it, or after its task."""
    if merges:
        record["merges"] = [*record.get("merges", ()), *merges]


def stage_names(this: Run, point: Point) -> list[str]:
    return [f"{i}-{stage.label}" for i, stage in enumerate(this.recipe.stream[point.index - 1].stages)]


def stage_of(this: Run, point: Point, index: int) -> Stage:
    """Stage `index` (from 0) of the task that `point` is made of."""
    names = stage_names(this, point)[: index + 1]
    *earlier, folder = (this.rundir.stage(point, each) for each in names)
    points = tuple(this.rundir.model(each) for each in points_of(this.recipe)[: point.index])
    stages = tuple(each / "model" for each in earlier)
    change = ranks.on_main(attempts.change_of, this.rundir, this.recipe, point)
    return Stage(
        recipe=this.recipe,
        task=this.stream.tasks[point.index - 1],
        spec=attempts.changed(this.recipe.stream[point.index - 1].stages[index], change),
        name=names[-1],
        key=f"stream.{point.task}.stages.{index}",
        source=(*points, *stages)[-1],
        points=points,
        stages=stages,
        target=folder / "model",
        work=folder / "trainer",
        seed=seeds.derived(this.recipe.seed, point.index, index),
    )


def services_of(this: Run, point: Point) -> Services:
    """What of the run a stage of the task that `point` is made of may use."""
    tasks = {task.name: task for task in this.stream.tasks}
    scorers = TaskScorers(lambda task: scorer_of(this, tasks[task]))
    return Services(
        engine=this.engine,
        score=scorers.score,
        read=scorers.read,
        verifier_errors=scorers.errors,
        evaluate_on_validation=partial(evaluate_on_validation, this, point),
        rehearse=rehearse,
        earlier_tasks=this.stream.tasks[: point.index - 1],
        ask_during=None if this.recipe.evaluation.during is None else asker_of(this, point),
        log=partial(log_line, this),
        log_during=this.rundir.append_during,
        rewind=partial(rewind, this.rundir, point.task),
        screen=this.screen,
        stop=this.stop,
        notes=[],
        leaks=this.search.texts,
    )


def log_line(this: Run, line: dict) -> None:
    """A line of metrics.jsonl, for whoever follows the run too. Called on rank 0."""
    this.rundir.append_metrics(line)
    this.following.line(line)


def rewind(rundir: RunDir, task: str, stage: str, step: int) -> None:
    """Drop the lines of a stage after `step` from metrics.jsonl and during.jsonl."""
    mine = {"task": task, "stage": stage}
    for forget in (rundir.forget_metrics, rundir.forget_during):
        forget(lambda line: line | mine != line or line["step"] <= step)


def scorer_of(this: Run, task: TaskData) -> Scorer:
    """The scorer of what a task is trained on."""
    verifier = task.spec.reward or task.spec.verifier
    if verifier is None:
        raise UserError(f"stream.{task.name}: has no verifier to score answers with: add `reward`")
    return this.scorers.get(verifier.model_dump())


def run_stage(this: Run, stage: Stage, services: Services) -> StageRecord:
    """Train one stage and say in one line what it did."""
    rows = stage_rows(stage.task)
    for strategy in this.strategies:
        rows = strategy.before_stage(stage, services, rows)
    scorer = None if stage.task.spec.reward is None and stage.task.spec.by_likelihood else scorer_of(this, stage.task)
    scored, failed = (scorer.scored, scorer.errors.total()) if scorer else (0, 0)
    record = stages.run(stage, services, rows, this.strategies)
    if scorer and (failed := scorer.errors.total() - failed) > (scored := scorer.scored - scored) / 2:
        kind, _ = scorer.errors.most_common(1)[0]
        this.screen.warn(
            f"{stage.task.name} {stage.name}: the reward could not score {failed} of {scored} completions, most often: "
            f"{kind}: {scorer.examples[kind]}"
        )
    gc.collect()
    for strategy in this.strategies:
        if (outcome := strategy.after_stage(stage, services, rows)) is not None:
            if outcome.folder is not None:
                ranks.on_main(replace_folder, stage.target, outcome.folder)
            add_merges(record, [] if outcome.record is None else [outcome.record])
    pace = pace_text(record["steps"] / max(record["seconds"], 1e-3), "step")
    notes = "".join(f"; {note}" for note in record["notes"])
    this.screen.line(
        f"{stage.task.name} {stage.name}: {record['steps']} steps in {record['seconds']:.1f} s ({pace}), "
        f"{record['train_tokens']:,} trained tokens, {record['rollout_tokens']:,} rollout tokens{notes}"
    )
    return record
