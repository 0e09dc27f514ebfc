"""A run and its baselines: the stream first, then each baseline as a run of its own in RUN/baselines, then the results again.

A baseline is resumed like any run. What it gave is kept in the cache by a hash of all that it depends on (its recipe, rows,
model, code, libraries and machine), so another run of the recipe takes it from there; weights are not kept.
"""

import shutil
from contextlib import ExitStack
from pathlib import Path

from cpt import cache, loop, ranks, report
from cpt.checks import all_checks
from cpt.checks.derived import derived
from cpt.data.stream import Stream
from cpt.evaluation.baselines import MARK, read_mark
from cpt.evaluation.results_file import write_results
from cpt.files import hash_of, is_intact, read_sealed, seal, write_sealed
from cpt.opening import open_run
from cpt.recipe import Recipe, dump
from cpt.recipe.user_kinds import code_hashes
from cpt.records import Results
from cpt.rewards.verifiers import function_files
from cpt.rundir import RunDir, points_of
from cpt.screen import Screen

KEPT = ("recipe.yaml", "manifest.json", "metrics.jsonl", "results.json", "report.html", "report.md", "evaluations")
IRRELEVANT = ("name", "description", "alarms", "baselines", "tracking", "tracking_project")


class Part(Screen):
    """The screen of a run that is a part of another: verdict and report are those of the whole."""

    def result(self, text: str, style: str | None = None) -> None:
        """Nothing."""


def run(recipe: Recipe, out: Path, screen: Screen, stream: Stream | None = None) -> Results:
    """Run the recipe and its baselines, or resume them; the content of results.json. Raises as `loop.run`."""
    results = loop.run(recipe, out, screen, stream)
    if not recipe.baselines:
        return results
    if not results["complete"]:
        screen.line("baselines: not run, for the stream did not come to its end")
        return results
    runs, without = derived(recipe)
    for name, why in without.items():
        screen.line(f"baseline {name}: {why}")
    for name, each in runs.items():
        one(each, name, RunDir(out), recipe, screen)
    return finish(recipe, out, screen)


def one(recipe: Recipe, name: str, main: RunDir, of: Recipe, screen: Screen) -> None:
    """Run the baseline, resume it, or take it from the cache. `main` is the run that it is a baseline of."""
    folder = main.path / "baselines" / name
    mine = RunDir(folder)
    if ranks.on_main(lambda: read_mark(mine) is not None and all(map(mine.has_row, points_of(recipe)))):
        return
    stream = all_checks.before_run(recipe, folder)
    key = key_of(recipe, stream, main.point(points_of(of)[0]))
    place = cache.folder("baselines")
    kept = None if key is None or place is None else place / key[:24]
    if ranks.on_main(take, kept, key, folder):
        screen.line(f"baseline {name}: taken from cache: {kept}")
        return
    screen.line(f"baseline {name}:")
    loop.run(recipe, folder, Part(screen.level, screen.console.file), stream)
    ranks.on_main(write_sealed, folder / MARK, {"key": key, "from_cache": False})
    ranks.on_main(keep, folder, kept, key)


def key_of(recipe: Recipe, stream: Stream, base: Path) -> str | None:
    """The hash of all that a baseline's results depend on; None where that cannot be known, as of a teacher in a folder."""
    found = cache.surroundings(recipe, base)
    if found is None or any((stage.teacher or "base") != "base" for task in recipe.stream for stage in task.stages):
        return None
    plain = dump(recipe)
    return hash_of(
        {
            "surroundings": found,
            "recipe": {key: value for key, value in plain.items() if key not in IRRELEVANT},
            "rows": stream.manifest(),
            "verifiers": function_files(stream.verifiers()),
            "user_code": code_hashes(recipe),
        }
    )


def take(kept: Path | None, key: str | None, folder: Path) -> bool:
    """Put what the cache has into `folder`, unless a run was begun there; whether it had it."""
    if kept is None or RunDir(folder).begun() or not is_intact(kept):
        return False
    try:
        if (read_sealed(kept / MARK) or {}).get("key") != key:
            return False
    except ValueError:
        return False
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    copy(kept, beside)
    write_sealed(beside / MARK, {"key": key, "from_cache": True})
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    return True


def keep(folder: Path, kept: Path | None, key: str | None) -> None:
    """Put a finished baseline into the cache; a cache that cannot be written is none."""
    if kept is None or is_intact(kept):
        return
    beside = kept.with_name(f".{kept.name}.part")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        copy(folder, beside)
        write_sealed(beside / MARK, {"key": key, "from_cache": False})
        seal(beside)
        shutil.rmtree(kept, ignore_errors=True)
        beside.rename(kept)
        cache.prune(kept.parent)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """The files that say what a run gave, without its weights."""
    for name in KEPT:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).is_file():
            shutil.copy2(source / name, target / name)


def finish(recipe: Recipe, out: Path, screen: Screen) -> Results:
    """Results and report again, with the baselines in them."""
    with ExitStack() as stack:
        rundir = ranks.on_main(lambda: stack.enter_context(open_run(out, recipe)))
        return ranks.on_main(show, rundir, recipe, screen)


def show(rundir: RunDir, recipe: Recipe, screen: Screen) -> Results:
    results = write_results(rundir, recipe)
    html, _ = report.build(rundir.path, screen.warn)
    rows = results["baselines"]["rows"]
    names = [points_of(recipe)[0].name, points_of(recipe)[-1].name, *(row["name"] for row in rows)]
    accuracy = [results["accuracy"][0], results["accuracy"][-1], *(row["accuracy"] for row in rows)]
    held_out = {
        suite: [scores[0], scores[-1], *(row["held_out"].get(suite) for row in rows)]
        for suite, scores in results["held_out"].items()
    }
    screen.matrix(results["tasks"], names, accuracy, held_out)
    for name, measure in results["baselines"]["measures"].items():
        screen.result(measure_line(name, measure))
    screen.result(f"report: {html}")
    return results


def measure_line(name: str, measure: dict) -> str:
    """`share of joint gain: 0.950 [0.921, 0.974]`."""
    value, ends = measure["value"], measure["interval"]
    text = "unknown" if value is None else f"{value:.3f}"
    return f"{name.replace('_', ' ')}: {text}" + ("" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]")
