"""The loop: for each point of the stream, train it if it is not committed, evaluate it if its row is missing; then report."""

import gc
import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cpt import manifest, models, ranks, report, rollouts, stages
from cpt.checks import all_checks
from cpt.checks.findings import Findings
from cpt.checks.launch import check_launch
from cpt.checks.surroundings import warn_of_during, warn_of_kinds
from cpt.data import encoding
from cpt.data.contamination import Search
from cpt.data.memory import memories
from cpt.data.stream import Stream
from cpt.errors import UserError
from cpt.evaluation import attempts
from cpt.evaluation.evaluate import probes
from cpt.evaluation.results_file import write_results
from cpt.following import Following
from cpt.loop.rows import add_noise_floor, add_row, has_noise_floor
from cpt.loop.state import Run
from cpt.loop.tasks import train_task
from cpt.mending import mend_run
from cpt.opening import open_run
from cpt.recipe import Recipe
from cpt.recipe.stages import Sft
from cpt.recipe.user_kinds import code_hashes
from cpt.records import Results
from cpt.rewards import Failure, Scorers, failure_lines
from cpt.rundir import Point, points_of
from cpt.screen import Screen, hush_libraries, logs_to
from cpt.stop import PROMPT, listening
from cpt.strategies import make as make_strategies

log = logging.getLogger(__name__)
STYLES = {"passed": "green", "failed": "bold red", "inconclusive": "yellow", "missing": "yellow"}
VERDICT_STYLES = {"ship": "bold green", "do not ship": "bold red", "inconclusive": "bold yellow", "no gates": "bold"}


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
