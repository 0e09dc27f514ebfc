"""`cpt eval`: any point of a run, or any model folder, on any suite."""

import json
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from cpt import models, ranks, rollouts
from cpt.data.stream import load_stream
from cpt.errors import UserError
from cpt.evaluation.evaluate import evaluate
from cpt.evaluation.statistics import interval
from cpt.files import write_whole
from cpt.preflight import check_rows
from cpt.recipe import Adapter, Evaluation, Model, Recipe, load, load_suite
from cpt.rewards import Scorers, told
from cpt.run import probes
from cpt.rundir import RunDir, points_of
from cpt.screen import Screen, hush_libraries
from cpt.stop import listening


def evaluate_folder(target: Path, suites: list[str], point: str | None, out: Path | None, screen: Screen) -> int:
    """Print the accuracy of `target` on each task of the suites; every answer goes to `out` where given.

    Raises:
        UserError: `target` is neither a run nor a model folder, or there is no such point.
    """
    hush_libraries(screen.level)
    folder, base, recipe = find(target, point)
    asked = {suite.name: suite for suite in map(load_suite, suites)}
    stream = load_stream(recipe.model_copy(update={"stream": ()}), asked)
    tokenizer = models.load_tokenizer(folder, recipe)
    check_rows(recipe, stream, tokenizer, models.context_length(base, recipe))
    with Scorers() as scorers, listening() as stop, TemporaryDirectory(prefix="cpt-eval-") as place:
        log = Path(place, "engine.log")
        with closing(rollouts.start(recipe, base, Path(place), probes(recipe, stream, tokenizer), log)) as engine:
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
        for line in told(ranks.gather(scorers.failures())):
            screen.warn(line)
    if ranks.is_main():
        show(lines, cost, screen)
        if out is not None:
            write_whole(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            screen.result(f"answers: {out}")
    return 0


def find(target: Path, point: str | None) -> tuple[Path, Path, Recipe]:
    """(folder of the weights, folder of the base, recipe) of a run directory or a model folder."""
    if (target / "recipe.yaml").is_file():
        recipe = load(str(target / "recipe.yaml"))
        rundir, points = RunDir(target), points_of(recipe)
        named = {each.name: each for each in points if rundir.committed(each)}
        chosen = point or (list(named)[-1] if named else None)
        if chosen not in named:
            there = ", ".join(named) or "none yet"
            raise UserError(f"{target}: no committed point {chosen or ''}; there: {there}")
        return rundir.served(named[chosen]), rundir.model(points[0]), recipe
    if point is not None:
        raise UserError(f"{target}: --point goes with a run directory (one that holds recipe.yaml)")
    folder = target / "model" if (target / "model" / "config.json").is_file() else target
    if models.is_adapter(folder):
        config = json.loads((folder / "adapter_config.json").read_text())
        recipe = bare_recipe(config["base_model_name_or_path"], Adapter(kind=config["peft_type"].lower()))
        return folder, models.resolve(recipe), recipe
    if not (folder / "config.json").is_file():
        raise UserError(f"{target}: is neither a run directory (recipe.yaml) nor a model folder (config.json)")
    return folder, folder, bare_recipe(str(folder), None)


def bare_recipe(path: str, adapter: Adapter | None) -> Recipe:
    """The recipe of a model by itself: nothing to train. An answer may take half of its context, 256 tokens at most."""
    model = Model(path=path)
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
