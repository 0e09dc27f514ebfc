"""What in the files of a run does not belong together, in a few words each: an edit, a mixture of two runs."""

from collections.abc import Iterator
from pathlib import Path

ROUNDING = 1e-9


def disagreements(results: dict) -> Iterator[str]:
    """What in results.json does not belong together: rows, columns and names."""
    tasks, rows, suites = results["tasks"], len(results["points"]), set(results["held_out"])
    intervals, held_out = results["intervals"], results["held_out_tasks"]
    if results["complete"] != (rows == len(tasks) + 1):
        yield f"{rows} points for {len(tasks)} tasks"
    for key, table in (("accuracy", results["accuracy"]), ("intervals.accuracy", intervals["accuracy"])):
        if [len(row) for row in table] != [len(tasks)] * rows:
            yield f"{key}: not a row for each point and a column for each task"
    tables = {"held_out": results["held_out"], "intervals.held_out": intervals["held_out"]}
    tables |= {f"held_out_tasks.{suite}": each for suite, each in held_out.items()}
    tables |= {f"sampled.{task}": each for task, each in results["sampled"].items()}
    for key, table in tables.items():
        yield from (f"{key}.{name}: not a value for each point" for name, each in table.items() if len(each) != rows)
    if not set(held_out) == set(intervals["held_out"]) == suites:
        yield "held_out, held_out_tasks, intervals.held_out: not the same suites"
    if not set(results["sampled"]) <= set(tasks):
        yield "sampled: a task that is not one of `tasks`"
    if results["complete"]:
        yield from disagreements_at_the_end(results)
    yield from disagreements_of_stages(results)


def disagreements_at_the_end(results: dict) -> Iterator[str]:
    """The same of what only a whole stream has."""
    intervals, metrics = results["intervals"], results["metrics"]
    if set(metrics) != set(intervals["metrics"]):
        yield "metrics, intervals.metrics: not the same names"
    lacking = {"learning_accuracy", "average_accuracy"} - {name for name, value in metrics.items() if value is not None}
    if lacking:
        yield f"metrics: no {' and no '.join(sorted(lacking))}"
    if set(intervals["held_out_drop"]) != set(results["held_out"]):
        yield "intervals.held_out_drop: not the suites of held_out"
    if not set(intervals["forgetting_by_task"]) >= set(results["tasks"][:-1]):
        yield "intervals.forgetting_by_task: not the tasks"
    if any(
        gate["rule"] != "point" and gate["interval"] is None and gate.get("outcome") != "missing"
        for gate in results["gates"]
    ):
        yield "gates: one compares an interval and has none"


def disagreements_of_stages(results: dict) -> Iterator[str]:
    names = {Path(point).name for point in results["points"]}
    if set(results["evaluation_cost"]) != names:
        yield "evaluation_cost: not the points"
    if not set(results["verifier_errors"]) <= names:
        yield "verifier_errors: a point that is not one of `points`"
    for stage in results["stages"]:
        if "point" not in stage or "-" not in stage["stage"]:
            yield f"stages: {stage['stage']} has no point, or no number"
        for merge in stage.get("merges", ()):
            if merge["curve"] and (merge["option"] is None or not any(each["taken"] for each in merge["curve"])):
                yield f"stages: {stage['stage']}: a merge's search without the value that was taken"
            if any(each["accuracy"].keys() != merge["curve"][0]["accuracy"].keys() for each in merge["curve"]):
                yield f"stages: {stage['stage']}: a merge's search has other tasks for other values"
            if merge["curve"] and stage["task"] not in merge["curve"][0]["accuracy"]:
                yield f"stages: {stage['stage']}: a merge's search that was not evaluated on {stage['task']}"


def disagreements_with_answers(results: dict, answers: dict[str, list[dict]]) -> Iterator[str]:
    """The accuracies that are not those of the answers (`answers`: the lines of the points whose answers are there)."""
    for row, point in enumerate(Path(each).name for each in results["points"]):
        lines = [line for line in answers.get(point, ()) if line["mode"] == "greedy"]
        for column, task in enumerate(results["tasks"] if lines else ()):
            mine = [line["score"] for line in lines if line["suite"] is None and line["task"] == task]
            if differs(results["accuracy"][row][column], mine):
                yield f"accuracy.{row}.{column}: is not that of the answers in evaluations/{point}.jsonl"
        for suite, scores in results["held_out"].items() if lines else ():
            if differs(scores[row], [line["score"] for line in lines if line["suite"] == suite]):
                yield f"held_out.{suite}.{row}: is not that of the answers in evaluations/{point}.jsonl"


def differs(accuracy: float, scores: list[float]) -> bool:
    return not scores or abs(sum(scores) / len(scores) - accuracy) > ROUNDING
