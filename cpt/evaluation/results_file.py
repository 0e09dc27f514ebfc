"""results.json, made again from the committed files alone: the recipe, the points' records and every evaluated answer."""

import itertools

from cpt import gate_history, manifest
from cpt.evaluation import attempts, baselines, during, measured, noise
from cpt.evaluation.gates import check_gates
from cpt.evaluation.own_metrics import own_metrics, record
from cpt.evaluation.results import numbers
from cpt.evaluation.verdict import verdict
from cpt.files import write_json
from cpt.recipe import Recipe, all_suites
from cpt.records import Answer, GateChange, MergeRecord, NoiseRecord, Results, RunCost, Spent, StageRecord, fingerprint
from cpt.rundir import Point, RunDir, points_of

FORMAT = 1


def write_results(rundir: RunDir, recipe: Recipe) -> Results:
    """Write results.json from what is committed so far, and return its content. Keys: docs/run-directory.md."""
    points = list(itertools.takewhile(rundir.has_row, points_of(recipe)))
    tasks = [task.task for task in recipe.stream]
    read = {point.name: rundir.read_evaluation(point) for point in points}
    complete = len(points) == len(tasks) + 1
    own = own_metrics(recipe)
    computed = numbers(
        tasks=tasks,
        suites=list(all_suites(recipe)),
        points=[point.name for point in points],
        lines_by_point={name: lines for name, (lines, _) in read.items()},
        complete=complete,
        k=recipe.evaluation.sampled.k if recipe.evaluation.sampled else (),
        own=own,
    )
    floor = (
        noise.read(rundir.path, rundir.answers_hash(points[0])) if recipe.evaluation.noise_floor and points else None
    )
    if floor:
        computed["noise_floor"] = floor["floor"]
    gates = check_gates(recipe.evaluation.gates, computed, own) if complete else []
    history = gate_history.read(rundir.path)
    judged = verdict(gates, computed, history) if complete else None
    stages = [{"point": point.name, **record} for point in points if point.task for record in rundir.stages(point)]
    evaluation_cost = {name: cost for name, (_, cost) in read.items()}
    results: Results = {
        "format": FORMAT,
        "complete": complete,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "tasks": tasks,
        **computed,
        "cost": costs(stages, evaluation_cost, floor),
        "gates": gates,
        "gate_history": history,
        "verdict": judged,
        "points": [str(rundir.point(point).relative_to(rundir.path)) for point in points],
        "stages": stages,
        "evaluation_cost": evaluation_cost,
        "logged": rundir.metrics.read_bytes().count(b"\n") if rundir.metrics.exists() else 0,
        "overlong": manifest.read(rundir.path / "manifest.json").get("overlong", {}),
        "resolved_recipe": rundir.recipe.read_text(encoding="utf-8"),
    }
    if found := manifest.read(rundir.path / "manifest.json").get("contamination"):
        results["contamination"] = found
    results |= of_lm_eval_and_likelihoods({name: lines for name, (lines, _) in read.items()})
    if recipe.evaluation.on_failure is not None:
        add_attempts(results, rundir, recipe, points, history)
    if own:
        results["own_metrics"] = record(own)
    if recipe.evaluation.during is not None:
        results["during"] = during.summary(
            recipe, rundir.read_during(), stages, [read[point.name][0] for point in points]
        )
        add_cost(results["cost"], results["during"])
    if complete and (found := baselines.summary(rundir, recipe, [read[point.name][0] for point in points])):
        results["baselines"] = found
    results["sha256"] = fingerprint(results)
    write_json(rundir.results, results)
    return results


def of_lm_eval_and_likelihoods(lines_by_point: dict[str, list[Answer]]) -> dict:
    """The keys of results.json that only runs with such tasks have."""
    points = list(lines_by_point)
    made = {
        "score_kinds": measured.score_kinds(lines_by_point[points[0]]),
        "likelihood": measured.likelihoods(points, lines_by_point),
        "benchmarks": measured.benchmarks(points, lines_by_point),
    }
    return {key: value for key, value in made.items() if value}


def add_attempts(
    results: Results, rundir: RunDir, recipe: Recipe, points: list[Point], history: list[GateChange]
) -> None:
    """What `evaluation.on_failure` did: the attempts that were set aside, and where the stream ended."""
    made = attempts.records(rundir, recipe, points)
    rolled_back = [point.name for point in points if attempts.is_rolled_back(rundir, recipe, point)]
    results |= {"attempts": made, "rolled_back": rolled_back}
    for key in ("seconds", "train_tokens", "rollout_tokens"):
        results["cost"][key] = round(results["cost"][key] + sum(each[key] for each in made), 3)
    decision, failed = attempts.decide(rundir, recipe, points[-1]) if points else (None, [])
    stopped = points[-1].name if decision == "stop" else None
    if stopped:
        gates, computed = attempts.checked_after(rundir, recipe, points[-1])
        results |= {"stopped": {"point": stopped, "failed": failed}, "gates": gates}
        results["verdict"] = verdict(gates, computed, history)
        last = points[-2].name
        results["verdict"]["sentence"] += f" The stream was stopped after {stopped}; `final` is {last}."
    if results["verdict"] is not None and (more := attempts.sentence(made, rolled_back, stopped)):
        results["verdict"]["sentence"] += f" {more}"


def add_cost(cost: RunCost, spent: Spent) -> None:
    """Count what evaluations within stages took, in all and by itself."""
    cost["during"] = {"seconds": spent["seconds"], "rollout_tokens": spent["rollout_tokens"]}
    cost["seconds"] = round(cost["seconds"] + spent["seconds"], 3)
    cost["rollout_tokens"] += spent["rollout_tokens"]


def place_of(stage: StageRecord, merge: MergeRecord) -> str:
    """Where a merge was made: after a stage, or after the task."""
    return f"{stage['point']}/{stage['stage']}" if merge.get("after") == "stage" else stage["point"]


def costs(stages: list[StageRecord], evaluations: dict[str, Spent], floor: NoiseRecord | None = None) -> RunCost:
    """What the run took: in all (`floor` too), and for each stage (training), merge and point (evaluation)."""
    keys = ("seconds", "train_tokens", "rollout_tokens", "peak_memory_bytes")
    by_stage = {f"{stage['point']}/{stage['stage']}": {key: stage[key] for key in keys} for stage in stages}
    merges = {
        f"{place_of(stage, merge)}/{merge['strategy']}": {key: merge[key] for key in keys if key in merge}
        for stage in stages
        for merge in stage.get("merges", ())
    }
    spent = [*by_stage.values(), *merges.values(), *evaluations.values(), *([floor] if floor else [])]
    return {
        "seconds": round(sum(each["seconds"] for each in spent), 3),
        "train_tokens": sum(each.get("train_tokens", 0) for each in (*by_stage.values(), *merges.values())),
        "rollout_tokens": sum(each["rollout_tokens"] for each in spent),
        "peak_memory_bytes": max((each["peak_memory_bytes"] for each in by_stage.values()), default=None),
        "stages": by_stage,
        "merges": merges,
    }
