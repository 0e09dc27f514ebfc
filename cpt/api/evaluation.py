"""Evaluate any point of a run, or any model folder, on any suite."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from cpt import models, ranks, rollouts
from cpt.adapters import CONFIG, is_adapter, named_base, run_around
from cpt.api.arguments import in_a_session, screen_of
from cpt.checks import all_checks
from cpt.checks.benchmarks import load_benchmarks
from cpt.checks.findings import Findings
from cpt.checks.surroundings import check_suites
from cpt.data import encoding
from cpt.data.stream import load_stream
from cpt.errors import UserError
from cpt.evaluation.evaluate import evaluate as evaluate_point
from cpt.evaluation.evaluate import probes
from cpt.evaluation.statistics import interval
from cpt.files import write_whole
from cpt.layout import check_sealed, check_strangers
from cpt.places import is_run, weights_in, whole_point
from cpt.recipe import Adapter, Model, Recipe, RecipeLike, Suite, load, load_suite
from cpt.recipe import Evaluation as EvaluationSpec
from cpt.recipe.suites import LmEval
from cpt.records import Answer
from cpt.rewards import Scorers, failure_lines
from cpt.rundir import RunDir, points_of
from cpt.screen import Screen, hush_libraries
from cpt.stop import PROMPT, listening

TASKS = "tasks"  # the suite of a run's own tasks


@dataclass(frozen=True)
class Evaluation:
    """Accuracies of a model on suites.

    Attributes:
        accuracy: {suite: {task: accuracy from 0 to 1}}; of a task that is measured by likelihood, that.
        intervals: {suite: {task: its 95 % interval}}.
        answers: every answer, with task, prompt, completion and score.
        seconds: how long it took.
        tokens: how many were generated.
    """

    accuracy: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    answers: list[Answer] = field(repr=False)
    seconds: float
    tokens: int

    def mean(self, suite: str) -> float:
        """The accuracy over all questions of a suite."""
        scores = [line["score"] for line in self.answers if line["suite"] == suite]
        return sum(scores) / len(scores)

    def summary(self) -> dict:
        """What `cpt eval --json` prints: all but the answers, and {suite: {task: number of questions}}."""
        questions: dict[str, dict[str, int]] = {
            suite: dict.fromkeys(tasks, 0) for suite, tasks in self.accuracy.items()
        }
        for line in self.answers:
            questions[line["suite"]][line["task"]] += 1
        numbers = {"accuracy": self.accuracy, "intervals": self.intervals, "questions": questions}
        return numbers | {"seconds": self.seconds, "tokens": self.tokens}


def evaluate(
    target: str | Path,
    suites: RecipeLike | Sequence[RecipeLike] = "general",
    *,
    tasks: bool = False,
    point: str | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    verbose: bool = False,
) -> Evaluation:
    """Evaluate a run, a model folder or an adapter folder on suites, greedily, as `cpt eval` does.

    Args:
        target: a run directory, a point of one, a model folder, or the id of a model on the hub (owner/name).
        tasks: evaluate the tasks of the run's own stream, too: as the suite `tasks`.
        suites: names of suites ("general"), YAML files, or dictionaries of what such a file would hold; or one of these.
        point: which point of a run ("01-reverse"); the last where left out.
        out: a file for every evaluated answer (JSON lines).
        quiet: print results and warnings alone.
        verbose: print what the libraries warn of, too.

    Raises:
        UserError: a mistake in one line; RecipeErrors for those of a suite.
        KeyboardInterrupt: interrupted; no answer is kept.
    """
    several = [suites] if isinstance(suites, str | Path | Mapping) else list(suites)
    with in_a_session():
        return evaluate_folder(Path(target), several, point, out and Path(out), screen_of(quiet, verbose), tasks)


def evaluate_folder(
    target: Path,
    suites: Sequence[RecipeLike],
    point: str | None,
    out: Path | None,
    screen: Screen,
    tasks: bool = False,
) -> Evaluation:
    """Evaluate `target` and print its accuracy on each task of the suites; every answer goes to `out` where given.

    `tasks`: also on those of its run's stream, as the suite `tasks`.

    Raises:
        UserError: `target` is neither a run nor a model folder, or there is no such point.
    """
    hush_libraries(screen.level)
    if out is not None:
        check_out(out)
    asked, specs = load_suites(suites)
    with screen.progress(f"checking the files of {target}"):
        folder, base, recipe = find(target, point, screen)
    if tasks:
        asked |= own_tasks(target, recipe, asked | specs)
    with screen.progress("checking the model and the rows"):
        findings = Findings()
        benchmarks, _ = load_benchmarks(specs, findings, True, "suite {}".format)
        findings.check()
        stream = load_stream(recipe.model_copy(update={"stream": ()}), asked)
        stream = replace(stream, benchmarks=benchmarks)
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
            lines, cost = evaluate_point(
                folder,
                base,
                recipe,
                stream,
                engine=engine,
                scorers=scorers,
                screen=screen,
                stop=stop,
                label=f"evaluating {folder}",
                files=out and out.with_suffix(".lm_eval"),
            )
        for line in failure_lines(ranks.gather(scorers.failures())):
            screen.warn(line)
    result = result_of(lines, cost)
    if ranks.is_main():
        show(result, screen)
        if out is not None:
            write_whole(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            screen.result(f"answers: {out}")
    return result


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


def load_suites(names: Sequence[RecipeLike]) -> tuple[dict[str, Suite], dict[str, LmEval]]:
    """The suites of rows and those of lm-eval's tasks, by their names. Raises RecipeErrors with the mistakes of all."""
    suites: dict[str, Suite | LmEval] = {}
    findings = Findings()
    for name in names:
        with findings.collecting():
            suite = load_suite(name)
            if suite.name in suites:
                findings.add("--suite", f"two suites are called {suite.name}: pass only one of them")
            suites[suite.name] = suite
    rows = {name: suite for name, suite in suites.items() if isinstance(suite, Suite)}
    check_suites(rows, findings)
    findings.check()
    return rows, {name: suite for name, suite in suites.items() if isinstance(suite, LmEval)}


def own_tasks(target: Path, recipe: Recipe, asked: Mapping[str, object]) -> dict[str, Suite]:
    """The tasks of the run's stream as a suite. Raises UserError where there is no run, or a suite has that name."""
    if not recipe.stream:
        raise UserError(f"--tasks: {target} is no run and no point of one: its tasks are not known; give --suite")
    if TASKS in asked:
        raise UserError(f"--tasks: a suite is called {TASKS}, too: evaluate one of them at a time")
    return {TASKS: Suite.model_construct(name=TASKS, tasks=recipe.stream)}


def from_hub(target: Path, screen: Screen) -> tuple[Path, Path, Recipe]:
    """`find` for the id of a model on the hub. Raises UserError where it is not there, or cannot be reached."""
    try:
        recipe = bare_recipe(str(target), None)
        folder = models.resolve(recipe, screen)
    except UserError as error:
        raise UserError(str(error).removeprefix("model.path: ")) from error
    return folder, folder, recipe


def find(target: Path, point: str | None, screen: Screen) -> tuple[Path, Path, Recipe]:
    """(folder of the weights, folder of the base, recipe) of a run directory or a model folder."""
    if is_run(target):
        return find_point(target, point, screen)
    if point is not None:
        raise UserError(f"{target}: --point needs a run directory (one that holds recipe.yaml)")
    if not target.exists() and len(target.parts) == 2 and not str(target).startswith((".", "~")):
        return from_hub(target, screen)
    folder = weights_in(target)
    for line in check_sealed(target):
        screen.warn(line)
    if (run := run_around(folder)) is not None:
        return with_base(folder, run, load(str(run / "recipe.yaml")))
    if is_adapter(folder):
        recipe = adapter_recipe(folder)
        return folder, models.resolve(recipe), recipe
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{target}: is neither a run directory (recipe.yaml), a model folder (config.json), nor a model's id on the hub"
        )
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
            f"{folder}: is an adapter on {base.name} of {run}, which is missing or damaged: `cpt run` restores it"
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
    return recipe.model_copy(update={"evaluation": EvaluationSpec(max_completion_length=limit)})


def result_of(lines: list[Answer], cost: dict) -> Evaluation:
    lines = [line for line in lines if line["mode"] == "greedy"]
    accuracy: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for suite, task in dict.fromkeys((line["suite"], line["task"]) for line in lines):
        scores = [line["score"] for line in lines if (line["suite"], line["task"]) == (suite, task)]
        accuracy.setdefault(suite, {})[task] = sum(scores) / len(scores)
        intervals.setdefault(suite, {})[task] = tuple(interval(scores))
    return Evaluation(accuracy, intervals, lines, cost["seconds"], cost["rollout_tokens"])


def show(result: Evaluation, screen: Screen) -> None:
    """One line a task, one a suite: accuracy, its 95 % interval, the number of questions."""
    counts = Counter((line["suite"], line["task"]) for line in result.answers)
    measured = {(line["suite"], line["task"]) for line in result.answers if line.get("metric") == "likelihood"}
    for suite, tasks in result.accuracy.items():
        for task, accuracy in tasks.items():
            low, high = result.intervals[suite][task]
            what = "likelihood " * ((suite, task) in measured)
            screen.result(f"{suite}/{task}: {what}{accuracy:.3f} [{low:.3f}, {high:.3f}] of {counts[suite, task]}")
        number = sum(counts[suite, task] for task in tasks)
        low, high = interval([line["score"] for line in result.answers if line["suite"] == suite])
        screen.result(f"{suite}: {result.mean(suite):.3f} [{low:.3f}, {high:.3f}] of {number}", style="bold")
    screen.line(f"{result.seconds:.1f} s, {result.tokens:,} tokens")
