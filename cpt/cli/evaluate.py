"""`cpt eval`: any point of a run, or any model folder, on any suite."""

import json
import shutil
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from cpt import models, ranks, rollouts
from cpt.adapters import CONFIG, is_adapter, named_base, run_around
from cpt.checks import all_checks
from cpt.checks.findings import Findings
from cpt.checks.surroundings import check_suites
from cpt.data import encoding
from cpt.data.stream import load_stream
from cpt.errors import UserError
from cpt.evaluation.evaluate import evaluate, probes
from cpt.evaluation.statistics import interval
from cpt.files import write_whole
from cpt.layout import check_sealed, check_strangers
from cpt.places import is_run, weights_in, whole_point
from cpt.recipe import Adapter, Evaluation, Model, Recipe, Suite, load, load_suite
from cpt.rewards import Scorers, failure_lines
from cpt.rundir import RunDir, points_of
from cpt.screen import Screen, hush_libraries
from cpt.stop import PROMPT, listening


def evaluate_folder(target: Path, suites: list[str], point: str | None, out: Path | None, screen: Screen) -> int:
    """Print the accuracy of `target` on each task of the suites; every answer goes to `out` where given.

    Raises:
        UserError: `target` is neither a run nor a model folder, or there is no such point.
    """
    hush_libraries(screen.level)
    if out is not None:
        check_out(out)
    asked = load_suites(suites)
    with screen.progress(f"looking at the files of {target}"):
        folder, base, recipe = find(target, point, screen)
    with screen.progress("looking at the model and the rows"):
        stream = load_stream(recipe.model_copy(update={"stream": ()}), asked)
        stream, warnings = all_checks.check_evaluated(recipe, stream, folder, base)
    for note in stream.notes():
        screen.line(note)
    for warning in warnings:
        screen.warn(warning)
    with (
        Scorers() as scorers,
        listening() as stop,
        TemporaryDirectory(prefix="cpt-eval-") as place,
        stop.removing(partial(shutil.rmtree, place)),
        stop.within(PROMPT),
    ):
        log = Path(place, "engine.log")
        with screen.progress(f"starting the rollout engine ({recipe.rollouts.engine})"):
            compared = probes(stream, encoding.load(folder, base, recipe))
            started = rollouts.start(recipe, base, Path(place), compared, log)
        with closing(started) as engine:
            lines, cost = evaluate(
                folder,
                base,
                recipe,
                stream,
                engine=engine,
                scorers=scorers,
                screen=screen,
                stop=stop,
                label=f"evaluating {folder}",
            )
        for line in failure_lines(ranks.gather(scorers.failures())):
            screen.warn(line)
    if ranks.is_main():
        show(lines, cost, screen)
        if out is not None:
            write_whole(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            screen.result(f"answers: {out}")
    return 0


def check_out(out: Path) -> None:
    """Raise UserError where the answers cannot be written to `out`; better now than after an hour of evaluation."""
    if out.is_dir():
        raise UserError(f"--out: {out} is a folder; give a file for the answers")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written ({error.strerror}); give another file") from error


def load_suites(names: list[str]) -> dict[str, Suite]:
    """The suites by their own names. Raises RecipeErrors with the mistakes of all of them."""
    suites: dict[str, Suite] = {}
    findings = Findings()
    for name in names:
        with findings.collecting():
            suite = load_suite(name)
            if suite.name in suites:
                findings.add("--suite", f"two suites are called {suite.name}: give one of them")
            suites[suite.name] = suite
    check_suites(suites, findings)
    findings.check()
    return suites


def find(target: Path, point: str | None, screen: Screen) -> tuple[Path, Path, Recipe]:
    """(folder of the weights, folder of the base, recipe) of a run directory or a model folder."""
    if is_run(target):
        return find_point(target, point, screen)
    if point is not None:
        raise UserError(f"{target}: --point goes with a run directory (one that holds recipe.yaml)")
    folder = weights_in(target)
    for line in check_sealed(target):
        screen.warn(line)
    if (run := run_around(folder)) is not None:
        return with_base(folder, run, load(str(run / "recipe.yaml")))
    if is_adapter(folder):
        recipe = adapter_recipe(folder)
        return folder, models.resolve(recipe), recipe
    if not (folder / "config.json").is_file():
        raise UserError(f"{target}: is neither a run directory (recipe.yaml) nor a model folder (config.json)")
    return folder, folder, bare_recipe(str(folder), None)


def find_point(target: Path, name: str | None, screen: Screen) -> tuple[Path, Path, Recipe]:
    """`find` in a run: the point of that name, or the last whole one."""
    recipe = load(str(target / "recipe.yaml"))
    rundir, points = RunDir(target), points_of(recipe)
    chosen = whole_point(rundir, points, name, screen.warn)
    opened = [point for point in (chosen, points[0]) if rundir.committed(point)]
    for line in check_strangers(map(rundir.point, opened)):
        screen.warn(line)
    screen.line(f"evaluating {chosen.name} of {target}")
    return with_base(rundir.served(chosen), target, recipe)


def with_base(folder: Path, run: Path, recipe: Recipe) -> tuple[Path, Path, Recipe]:
    """(folder, folder of the run's base, recipe): weights of a run, which are evaluated as the run evaluates them."""
    rundir, base = RunDir(run), points_of(recipe)[0]
    if rundir.committed(base):
        return folder, rundir.model(base), recipe
    if is_adapter(folder):
        raise UserError(
            f"{folder}: is an adapter on {base.name} of {run}, which is not there or damaged: `cpt run` makes it again"
        )
    return folder, folder, recipe


def adapter_recipe(folder: Path) -> Recipe:
    """The recipe of an adapter by itself, on the base that its config names."""
    base = named_base(folder)
    with models.loading(f"adapter's config ({CONFIG})", folder):
        kind = str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["peft_type"]).lower()
    return bare_recipe(base, Adapter(kind=kind))


def bare_recipe(path: str, adapter: Adapter | None) -> Recipe:
    """The recipe of a model by itself: nothing to train. An answer may take half of its context, 256 tokens at most.

    A model is evaluated in the dtype that it is stored in; under an adapter, which does not say what it was trained in, in
    a recipe's default.
    """
    model = Model(path=path, dtype="auto") if adapter is None else Model(path=path)
    recipe = load("quickstart").model_copy(update={"name": "eval", "model": model, "adapter": adapter, "stream": ()})
    context = models.context_length(models.resolve(recipe), recipe)
    limit = min(256, context // 2) if context else 256
    return recipe.model_copy(update={"evaluation": Evaluation(max_completion_length=limit)})


def show(lines: list[dict], cost: dict, screen: Screen) -> None:
    """One line a task, one a suite: accuracy, its 95 % interval, the number of questions."""
    for suite in dict.fromkeys(line["suite"] for line in lines):
        mine = [line for line in lines if line["suite"] == suite]
        tasks = dict.fromkeys(line["task"] for line in mine)
        for task in tasks:
            scores = [line["score"] for line in mine if line["task"] == task]
            low, high = interval(scores)
            accuracy = sum(scores) / len(scores)
            screen.result(f"{suite}/{task}: {accuracy:.3f} [{low:.3f}, {high:.3f}] of {len(scores)}")
        screen.result(f"{suite}: {sum(line['score'] for line in mine) / len(mine):.3f} of {len(mine)}", style="bold")
    screen.line(f"{cost['seconds']:.1f} s, {cost['rollout_tokens']:,} tokens")
