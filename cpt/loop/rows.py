"""Evaluate a point, and keep its row of the matrix: every answer, and what it took."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpt import cache, ranks, rollouts
from cpt.data import encoding
from cpt.data.stream import validation_of
from cpt.evaluation import answers, during, noise
from cpt.evaluation.during import TaskScores, first_questions
from cpt.evaluation.evaluate import always_failing, evaluate
from cpt.evaluation.results import greedy_scores
from cpt.evaluation.results_file import write_results
from cpt.evaluation.suites.base import Asking
from cpt.loop.state import Run
from cpt.recipe.user_kinds import code_of
from cpt.records import Answer, Spent
from cpt.rollouts.cached import CachedEngine
from cpt.rundir import Point, points_of
from cpt.screen import QUIET, Screen
from cpt.stop import PROMPT, Stop


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


def show_row(this: Run, point: Point, lines: list[Answer], cost: Spent) -> None:
    this.rundir.write_evaluation(point, lines, cost)
    results = write_results(this.rundir, this.recipe)
    for line in answers.warnings(lines):
        this.screen.warn(f"{point.name}: {line}")
    this.following.row(results)
    names = [each.name for each in points_of(this.recipe)[: len(results["accuracy"])]]
    this.screen.matrix(results["tasks"], names, results["accuracy"], results["held_out"])


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
