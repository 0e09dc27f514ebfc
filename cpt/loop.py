"""The loop: for each point of the stream, train it if it is not committed, evaluate it if its row is missing; then report."""

import functools
import gc
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cpt import cache, manifest, models, ranks, report, rollouts, seeds, stages
from cpt.checks import all_checks
from cpt.checks.findings import Findings
from cpt.checks.launch import check_launch
from cpt.checks.surroundings import warn_of_during, warn_of_kinds
from cpt.context import Services, Stage
from cpt.data import encoding
from cpt.data.contamination import Search
from cpt.data.memory import memories
from cpt.data.stream import Stream, TaskData, stage_rows, validation_of
from cpt.errors import UserError
from cpt.evaluation import answers, attempts, during, noise
from cpt.evaluation.during import TaskScores, first_questions
from cpt.evaluation.evaluate import always_failing, evaluate, probes
from cpt.evaluation.results import greedy_scores
from cpt.evaluation.results_file import write_results
from cpt.evaluation.suites.base import Asking
from cpt.files import replace_folder
from cpt.following import Following
from cpt.mending import mend_run, mend_task
from cpt.progress import pace_text
from cpt.recipe import Recipe
from cpt.recipe.evaluation import Retry
from cpt.recipe.stages import Sft
from cpt.recipe.user_kinds import code_hashes, code_of
from cpt.records import Answer, MergeRecord, Results, Spent, StageRecord
from cpt.rewards import Failure, Scorer, Scorers, TaskScorers, failure_lines
from cpt.rollouts.cached import CachedEngine
from cpt.rundir import Point, RunDir, open_run, points_of
from cpt.screen import QUIET, Screen, hush_libraries, logs_to
from cpt.stages.rehearsal import rehearse
from cpt.stop import PROMPT, Stop, listening
from cpt.strategies import Strategy
from cpt.strategies import make as make_strategies

log = logging.getLogger(__name__)

STYLES = {"passed": "green", "failed": "bold red", "inconclusive": "yellow", "missing": "yellow"}
VERDICT_STYLES = {"ship": "bold green", "do not ship": "bold red", "inconclusive": "bold yellow", "no gates": "bold"}


@dataclass
class Run:
    """The things that live as long as the run."""

    recipe: Recipe
    rundir: RunDir
    stream: Stream
    strategies: list[Strategy]
    engine: rollouts.Engine | None  # started after `prepare`, where anything is left to do
    scorers: Scorers
    screen: Screen
    stop: Stop
    search: Search
    following: Following


def run(recipe: Recipe, out: Path, screen: Screen, stream: Stream | None = None) -> Results:
    """Run the recipe in the folder `out`, or resume the run that is there; returns the content of results.json.

    `stream`: its rows, where `all_checks.before_run` gave them already.

    Raises:
        UserError: a mistake in the recipe, its data or its folder.
        Interrupted: a signal came; the same command resumes from there.
    """
    check_launch(recipe)
    stream = stream or all_checks.before_run(recipe, out)
    with ExitStack() as stack:
        rundir = ranks.on_main(lambda: stack.enter_context(open_run(out, recipe)))
        stack.enter_context(logs_to(rundir.log, screen.level))
        hush_libraries(screen.level)
        stop = stack.enter_context(listening())
        stack.enter_context(stop.within(PROMPT))
        scorers = stack.enter_context(Scorers())
        again = partial(report.build, rundir.path, log.info)
        following = Following(rundir, recipe, again, screen.warn)
        stack.callback(following.close)
        search = Search(stream, recipe.data)
        this = Run(recipe, rundir, stream, make_strategies(recipe), None, scorers, screen, stop, search, following)
        with screen.progress("checking the run's files, the model and the rows"):
            compared = prepare(this)
        with screen.progress("loading the libraries"):
            preload(recipe)
        if not ranks.on_main(complete, this):
            base = rundir.model(points_of(recipe)[0])
            with screen.progress(f"starting the rollout engine ({recipe.rollouts.engine})"):
                this.engine = rollouts.start(recipe, base, rundir.path / "rollouts", compared, rundir.log)
            stack.callback(this.engine.close)
        for point in points_of(recipe):
            make_point(this, point)
            if point.task is None and not ranks.on_main(has_noise_floor, this):
                add_noise_floor(this, point)
            if not passes(this, point):
                break
        stop.check()
        return ranks.on_main(finish, this, ranks.gather(scorers.failures()))


def make_point(this: Run, point: Point) -> None:
    """Train a point if it is not committed, and evaluate it if its row is missing."""
    this.stop.check()
    if not ranks.on_main(this.rundir.committed, point):
        if ranks.on_main(attempts.is_rolled_back, this.rundir, this.recipe, point):
            ranks.on_main(attempts.roll_back, this.rundir, this.recipe, point)
        else:
            train_task(this, point)
    if not ranks.on_main(this.rundir.has_row, point):
        add_row(this, point)


def passes(this: Run, point: Point) -> bool:
    """Whether the stream goes on after this point: tried again, or rolled back, as `evaluation.on_failure` says."""
    while (decided := ranks.on_main(attempts.decide, this.rundir, this.recipe, point))[0] is not None:
        decision, failed = decided
        if decision == "stop":
            return False
        ranks.on_main(attempts.put_aside, this.rundir, point)
        change = ranks.on_main(attempts.change_of, this.rundir, this.recipe, point)
        what = "rolled back" if change is None else f"trained again ({attempts.describe(change)})"
        this.screen.warn(f"{point.name}: {', '.join(failed)} failed: the task is {what}; the attempt is kept")
        make_point(this, point)
    return True


def prepare(this: Run) -> list[list[int]]:
    """Make the base point, look for damage, restore the strategies, and check every row against the tokenizer.

    Returns a few prompts of the stream (token ids), for the engine's proofs.
    """
    points = points_of(this.recipe)
    ranks.on_main(mend_run, this.rundir, points, this.screen.warn)
    code = {"verifiers": this.scorers.keep(this.stream.verifiers()), "user_code": code_hashes(this.recipe)}
    if ranks.on_main(lambda: code) != code:
        raise UserError("the files of your own code differ between processes: share one folder, or copy them again")
    ranks.on_main(make_base, this, points[0], code)
    folder = this.rundir.model(points[0])
    findings = Findings()
    fit = all_checks.check_with_model(this.recipe, this.stream, folder, findings)
    warn_of_kinds(this.recipe, findings)
    warn_of_during(this.recipe, findings)
    findings.check()
    this.stream = fit.stream
    ranks.on_main(manifest.add, this.rundir, "overlong", fit.counts)
    if this.stream.contamination is not None:
        ranks.on_main(manifest.add, this.rundir, "contamination", this.stream.contamination)
    for warning in findings.warnings:
        this.screen.warn(warning)
    for name, description in fit.forms.items():
        this.screen.line(f"prompts of {name}: {description}")
    for name, lines in fit.samples.items():
        log.info("%s: %s", name, "; ".join(lines))
    last = ranks.on_main(lambda: [point for point in points if this.rundir.committed(point)][-1])
    if last.task is not None:
        this.screen.line(f"resuming after {last.name} in {this.rundir.path}")
    return probes(this.stream, encoding.load(folder, folder, this.recipe))


def complete(this: Run) -> bool:
    """Whether every point is committed and evaluated, or a gate has ended the stream."""
    for point in points_of(this.recipe):
        if not (this.rundir.committed(point) and this.rundir.has_row(point)):
            return False
        if (decision := attempts.decide(this.rundir, this.recipe, point)[0]) is not None:
            return decision == "stop" and has_noise_floor(this)
    return has_noise_floor(this)


def preload(recipe: Recipe) -> None:
    """Import what will be needed, and let the garbage collector never look through it again (a million objects).

    Before any model is loaded: what is alive here lives as long as the run.
    """
    kinds = {type(stage) for spec in recipe.stream for stage in spec.stages}
    stages.load(kinds | {Sft} if memories(recipe) else kinds)
    gc.collect()
    gc.freeze()


def make_base(this: Run, base: Point, code: manifest.Code) -> None:
    """`00-base`: the model that the recipe names, copied into the run; and the manifest."""
    if not this.rundir.committed(base):
        source = models.resolve(this.recipe, this.screen, this.stop)
        this.rundir.discard([base])
        with this.screen.progress(f"copying the model {source}"):
            models.write_base(this.recipe, source, this.rundir.work(base) / "model")
            this.rundir.commit(base, this.rundir.work(base) / "model", [])
    manifest.write(this.rundir, this.recipe, this.stream, code)


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


def asker_of(this: Run, point: Point) -> Callable[[Any], TaskScores]:
    """See `Services.ask_during`. The screen stays that of the stage."""
    stream = first_questions(this.stream, point.index, this.recipe.evaluation.during.questions)

    @functools.cache
    def asking() -> Asking:
        base = this.rundir.model(points_of(this.recipe)[0])
        greedy = this.recipe.evaluation.model_copy(update={"sampled": None, "likelihood": False})
        recipe = this.recipe.model_copy(update={"evaluation": greedy})
        encoders = encoding.load(base, base, recipe)
        return Asking(recipe, base, encoders, this.engine, this.scorers, Screen(QUIET), Stop(), "within a stage")

    return lambda policy: during.ask(policy, asking(), stream)


def evaluate_on_validation(this: Run, point: Point, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """See Services. It reads the validation rows alone, which `load_stream` has proven to be no evaluation rows."""
    asked = validation_of(this.stream, point.index)
    greedy = this.recipe.evaluation.model_copy(update={"sampled": None, "likelihood": False})
    with this.stop.within(PROMPT):
        lines, cost = evaluate(
            folder,
            this.rundir.model(points_of(this.recipe)[0]),
            this.recipe.model_copy(update={"evaluation": greedy}),
            asked,
            engine=this.engine,
            scorers=this.scorers,
            screen=this.screen,
            stop=this.stop,
            label=f"validating {folder.name} after {point.task}",
        )
    scores = greedy_scores([lines])
    return {task.name: float(scores[None, task.name].mean()) for task in asked.tasks}, cost


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


def remembering(this: Run, base: Point) -> rollouts.Engine:
    """The engine, over a cache of what the untouched model answered, where that is known."""
    folder, found = cache.folder("answers"), cache.surroundings(this.recipe, this.rundir.point(base))
    if not ranks.on_main(lambda: folder is not None and found is not None):
        return this.engine
    ranks.on_main(cache.prune, folder)
    return CachedEngine(this.engine, folder, found)


def add_row(this: Run, point: Point) -> None:
    """Evaluate a point, keep every answer, and show the matrix so far."""
    engine = this.engine if point.task is not None else remembering(this, point)
    lines, cost = evaluate(
        this.rundir.served(point),
        this.rundir.model(points_of(this.recipe)[0]),
        this.recipe,
        this.stream,
        engine=engine,
        scorers=this.scorers,
        screen=this.screen,
        stop=this.stop,
        label=f"evaluating {point.name}",
        files=this.rundir.evaluation(point).with_suffix(".lm_eval"),
    )
    if isinstance(engine, CachedEngine) and engine.taken:
        part = "all" if engine.taken == engine.asked else f"{engine.taken} of {engine.asked}"
        this.screen.line(f"{point.name}: {part} batches of answers taken from cache: {engine.folder}")
    ranks.on_main(show_row, this, point, lines, cost)
    for file in this.scorers.newly_changed(code.files for code in code_of(this.recipe)):
        this.screen.warn(f"{file} has changed: this run keeps the code that it began with")
    if point.task is None:
        for useless in always_failing(lines):
            this.screen.warn(useless)


def has_noise_floor(this: Run) -> bool:
    """Whether the noise floor of the base's answers is known, or not asked for."""
    if not this.recipe.evaluation.noise_floor:
        return True
    return noise.read(this.rundir.path, this.rundir.answers_hash(points_of(this.recipe)[0])) is not None


def add_noise_floor(this: Run, base: Point) -> None:
    """Evaluate the base again in other batches, and say how its answers differ."""
    lines, _ = ranks.on_main(this.rundir.read_evaluation, base)
    greedy = this.recipe.evaluation.model_copy(update={"sampled": None, "likelihood": False})

    def again(number: int) -> tuple[list[Answer], Spent]:
        return evaluate(
            this.rundir.served(base),
            this.rundir.model(base),
            this.recipe.model_copy(update={"evaluation": greedy}),
            this.stream,
            engine=this.engine,
            scorers=this.scorers,
            screen=this.screen,
            stop=this.stop,
            label=f"evaluating {base.name} again ({number} of {this.recipe.evaluation.noise_floor})",
            variation=number,
        )

    base_hash = ranks.on_main(this.rundir.answers_hash, base)
    repeats = this.recipe.evaluation.noise_floor
    record = noise.measure(this.rundir.path, base_hash, lines, repeats, again, ranks.is_main())
    ranks.barrier()
    this.screen.line(noise.summary(record["floor"]))


def show_row(this: Run, point: Point, lines: list[Answer], cost: Spent) -> None:
    this.rundir.write_evaluation(point, lines, cost)
    results = write_results(this.rundir, this.recipe)
    for line in answers.warnings(lines):
        this.screen.warn(f"{point.name}: {line}")
    this.following.row(results)
    names = [each.name for each in points_of(this.recipe)[: len(results["accuracy"])]]
    this.screen.matrix(results["tasks"], names, results["accuracy"], results["held_out"])


def finish(this: Run, failures: list[Failure]) -> Results:
    """The final link, the results, the report and the verdict. `failures` are the verifiers', of all ranks."""
    results = write_results(this.rundir, this.recipe)
    kept = len(results["accuracy"]) - 1 - ("stopped" in results)
    this.rundir.link_final(points_of(this.recipe)[kept])
    html, _ = report.build(this.rundir.path, this.screen.warn)
    this.following.finished(results, html)
    for line in failure_lines(failures):
        this.screen.warn(line)
    for gate in results["gates"]:
        this.screen.result(gate["message"], style=STYLES[gate["outcome"]])
    this.screen.result(results["verdict"]["sentence"], style=VERDICT_STYLES[results["verdict"]["verdict"]])
    this.screen.result(f"report: {html}")
    return results
