"""What the baselines of a run say of it: their scores beside the matrix, and what the stream has of a joint model's gain.

Everything is read from answers: of the run, and of the baselines' own runs in RUN/baselines. Questions are paired by row, so
differences have paired intervals. There is one joint model, on all tasks: intransigence (1801.10112) asks for one on tasks
1..k for each k, so what stands here is named after what it is.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cpt.evaluation import statistics
from cpt.evaluation.results import greedy_scores
from cpt.files import read_sealed
from cpt.recipe import Recipe
from cpt.records import Answer, BaselineRow, Baselines, Measure
from cpt.rundir import Point, RunDir, points_of

MARK = "baseline.json"  # in a baseline's folder: it is complete

Scores = list[np.ndarray]  # of each task: (n) scores, in the order of their row ids


def folders(recipe: Recipe) -> dict[str, list[tuple[str, Point]]]:
    """{baseline: [(folder in RUN/baselines, its last point)]} of those that are runs; experts have one for each task."""
    tasks = [task.task for task in recipe.stream]
    places = {
        "joint": [("joint", Point(1, "joint" if len(tasks) > 1 else tasks[0]))],
        "naive": [("naive", points_of(recipe)[-1])],
        "experts": [(f"expert-{task}", Point(1, task)) for task in tasks],
    }
    return {name: places[name] for name in recipe.baselines or () if name in places}


def summary(rundir: RunDir, recipe: Recipe, lines_by_point: Sequence[Sequence[Answer]]) -> Baselines | None:
    """The key `baselines` of results.json, of a complete run; None where no baseline is there yet."""
    if not recipe.baselines:
        return None
    tasks = [task.task for task in recipe.stream]
    scores = greedy_scores(lines_by_point)
    matrix = [scores[None, task] for task in tasks]
    ids = row_ids(lines_by_point[0], tasks)
    suites = {suite: np.hstack([scores[key] for key in scores if key[0] == suite]) for suite, _ in scores if suite}
    rows: list[BaselineRow] = []
    found: dict[str, Scores] = {}
    if "frozen" in recipe.baselines:
        found["frozen"] = [each[0] for each in matrix]
        held_out = {suite: float(each[0].mean()) for suite, each in suites.items()}
        rows.append(
            row_of("frozen", found["frozen"], held_out, {"runs": [], "steps": 0, "train_tokens": 0, "seconds": 0.0})
        )
    for name, places in folders(recipe).items():
        runs = [RunDir(rundir.path / "baselines" / folder) for folder, _ in places]
        marks = [read_mark(run) for run in runs]
        if None in marks or not all(run.has_row(point) for run, (_, point) in zip(runs, places, strict=True)):
            continue
        answers = [line for run, (_, p) in zip(runs, places, strict=True) for line in run.read_evaluation(p)[0]]
        by_row = {line["row"]: line["score"] for line in answers if line["suite"] is None and line["mode"] == "greedy"}
        if not all(row in by_row for each in ids for row in each):
            continue  # of other questions: made by another recipe
        found[name] = [np.array([by_row[row] for row in each]) for each in ids]
        rows.append(row_of(name, found[name], held_out_of(answers, suites), spent(rundir.path, runs, marks)))
    if not rows:
        return None
    return {"rows": rows, "measures": measures(found, matrix)}


def row_ids(lines: Sequence[Answer], tasks: Sequence[str]) -> list[list[str]]:
    """The ids of each task's questions, in the order of `greedy_scores`."""
    ids: dict[str, list[str]] = {task: [] for task in tasks}
    for line in lines:
        if line["suite"] is None and line["mode"] == "greedy":
            ids[line["task"]].append(line["row"])
    return [sorted(each) for each in ids.values()]


def held_out_of(answers: Sequence[Answer], suites: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The suites' scores, of those that the baseline was asked."""
    scores = {
        suite: [line["score"] for line in answers if line["suite"] == suite and line["mode"] == "greedy"]
        for suite in suites
    }
    return {suite: float(np.mean(each)) for suite, each in scores.items() if each}


def read_mark(run: RunDir) -> dict | None:
    try:
        return read_sealed(run.path / MARK)
    except ValueError:
        return None


def spent(path: Path, runs: Sequence[RunDir], marks: Sequence[dict]) -> dict:
    """What the baseline took, when it was computed."""
    results = [json.loads(run.results.read_text(encoding="utf-8")) for run in runs]
    return {
        "runs": [str(run.path.relative_to(path)) for run in runs],
        "steps": sum(stage["steps"] for each in results for stage in each["stages"]),
        "train_tokens": sum(each["cost"]["train_tokens"] for each in results),
        "seconds": round(sum(each["cost"]["seconds"] for each in results), 3),
        "from_cache": all(mark["from_cache"] for mark in marks),
    }


def row_of(name: str, scores: Scores, held_out: dict[str, float], cost: dict) -> BaselineRow:
    return {
        "name": name,
        "accuracy": [float(each.mean()) for each in scores],
        "intervals": [list(statistics.interval(each)) for each in scores],
        "held_out": held_out,
        "from_cache": False,
        **cost,
    }


def measures(found: Mapping[str, Scores], matrix: Sequence[np.ndarray]) -> dict[str, Measure]:
    """What the run is against its baselines; `matrix` has of each task (T+1, n) scores."""
    final = [each[-1] for each in matrix]
    learnt = [each[number] for number, each in enumerate(matrix, start=1)]
    base = [each[0] for each in matrix]
    made: dict[str, Measure] = {}
    if "frozen" in found:
        made["gain"] = mean_difference(final, base)
    if "naive" in found:
        made["gain_of_strategies"] = mean_difference(final, found["naive"])
    if "experts" in found:
        made["intransigence_to_experts"] = mean_difference(found["experts"], learnt)
    if "joint" in found:
        made["intransigence_to_joint"] = mean_difference(found["joint"], learnt)
        made["lead_of_joint"] = mean_difference(found["joint"], final)
        made["share_of_joint_gain"] = share(base, final, found["joint"])
    return made


def mean_difference(first: Scores, second: Scores) -> Measure:
    """mean over tasks of (first - second), paired by question, by square and add over the tasks (MOVER)."""
    values = [float(a.mean() - b.mean()) for a, b in zip(first, second, strict=True)]
    ends = [statistics.paired_difference(a, b) for a, b in zip(first, second, strict=True)]
    return {"value": float(np.mean(values)), "interval": list(statistics.mover(values, ends))}


def share(base: Scores, final: Scores, joint: Scores) -> Measure:
    """(mean final - mean base) / (mean joint - mean base): 1 where the stream ends as well as the joint model.

    Null where the joint model gained nothing. The interval is a bootstrap over questions, paired; it is null where more than
    one replicate in forty has no gain to share.
    """
    rng = np.random.default_rng(statistics.SEED)
    drawn = np.stack(
        [statistics.resampled_means(np.stack(each), rng) for each in zip(base, final, joint, strict=True)]
    ).mean(0)
    gained, of = drawn[:, 1] - drawn[:, 0], drawn[:, 2] - drawn[:, 0]
    means = [float(np.mean([each.mean() for each in scores])) for scores in (base, final, joint)]
    if means[2] <= means[0]:
        return {"value": None, "interval": None}
    value = (means[1] - means[0]) / (means[2] - means[0])
    some = of > 0
    interval = None if some.mean() < 0.975 else list(statistics.percentiles(gained[some] / of[some]))
    return {"value": value, "interval": interval}
