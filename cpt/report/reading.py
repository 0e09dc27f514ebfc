"""Read what a run left behind. Only results.json must be there; of the rest it is noted what is missing or damaged."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cpt.errors import UserError
from cpt.json_lines import places, read_lines
from cpt.layout import check_kinds
from cpt.records import Answer, Logged, Manifest, Results, wrong

FORMAT = 1  # of results.json
AGAIN = "give the run's command again, which makes it anew"


@dataclass(frozen=True)
class Run:
    """A run directory as read: `answers` are the lines of each evaluated point, by its name."""

    folder: Path
    results: dict
    logged: list[dict]
    answers: dict[str, list[dict]]
    manifest: dict | None
    recipe: str | None
    missing: tuple[str, ...]
    damaged: tuple[str, ...]  # what was left out, a line for each file

    @property
    def points(self) -> list[str]:
        return [Path(point).name for point in self.results["points"]]


def read(folder: Path) -> Run:
    """The run in `folder`.

    Raises:
        UserError: there is no results.json, it is of another format, or a file is not what a run writes.
    """
    path = folder / "results.json"
    if not path.exists():
        raise UserError(
            f"{folder}: holds no results.json; give the directory of a run that has evaluated at least its base"
        )
    check_kinds(folder)
    results = parse(path, AGAIN)
    if results.get("format") != FORMAT:
        raise UserError(f"{path}: format {results.get('format')!r} is not {FORMAT}: read it with the cpt that wrote it")
    problem = wrong(results, Results) or next(disagreements(results), None)
    if problem:
        raise UserError(f"{path}: is damaged: {problem}: {AGAIN}")
    names = [f"evaluations/{Path(point).name}.jsonl" for point in results["points"]]
    wanted = [*names, "metrics.jsonl", "manifest.json", *(["recipe.yaml"] if "resolved_recipe" not in results else [])]
    missing = [name for name in wanted if not (folder / name).is_file()]
    answers = {Path(name).stem: answers_of(folder / name) for name in names if name not in missing}
    check_questions(folder, answers)
    path, manifest = folder / "manifest.json", None
    if path.is_file():
        manifest = parse(path, "restore the file, or delete it (the report can be made without)")
        if problem := wrong(manifest, Manifest):
            raise UserError(f"{path}: is damaged: {problem}: restore the file, or delete it")
    logged, damaged = logged_lines(folder / "metrics.jsonl")
    return Run(folder, results, logged, answers, manifest, recipe_of(folder, results), tuple(missing), damaged)


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
    if any(gate["rule"] == "interval" and gate["interval"] is None for gate in results["gates"]):
        yield "gates: one is judged by an interval and has none"


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
                yield f"stages: {stage['stage']}: a merge's search judged on other tasks for other values"
            if merge["curve"] and stage["task"] not in merge["curve"][0]["accuracy"]:
                yield f"stages: {stage['stage']}: a merge's search that was not judged on {stage['task']}"


def answers_of(path: Path) -> list[dict]:
    """The answers of a point; each of its lines must be one."""
    lines, damaged = read_lines(path.read_bytes(), Answer)
    if damaged:
        raise UserError(f"{path}:{damaged[0].number}: is damaged: {damaged[0].why}: {AGAIN}")
    return lines


def check_questions(folder: Path, answers: dict[str, list[dict]]) -> None:
    """Raise UserError where the points were not asked the same questions: lines are missing, or another run's."""
    asked = {point: {question(line) for line in lines} for point, lines in answers.items()}
    every = set().union(*asked.values())
    for point, questions in asked.items():
        if lacking := len(every - questions):
            file = folder / "evaluations" / f"{point}.jsonl"
            raise UserError(
                f"{file}: is damaged: {lacking} of {len(every)} answers of the other points are not there: {AGAIN}"
            )


def question(line: dict) -> tuple:
    return line["suite"], line["task"], line["row"], line["mode"], line["sample"]


def logged_lines(path: Path) -> tuple[list[dict], tuple[str, ...]]:
    """What the trainers logged, and of lines that are damaged one line that says so."""
    if not path.is_file():
        return [], ()
    lines, damaged = read_lines(path.read_bytes(), Logged)
    return lines, (f"{path}: damaged: {places(damaged)}; the training curves are without it",) if damaged else ()


def recipe_of(folder: Path, results: dict) -> str | None:
    if "resolved_recipe" in results:
        return results["resolved_recipe"]
    path = folder / "recipe.yaml"
    return read_text(path, "restore the file") if path.is_file() else None


def read_text(path: Path, remedy: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is damaged: not UTF-8 ({error.reason}): {remedy}") from error


def parse(path: Path, remedy: str) -> dict:
    """The JSON object in a file."""
    text = read_text(path, remedy)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged: not JSON ({error}): {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: is damaged: must be a JSON object, not {text.strip()[:40]!r}: {remedy}")
    return value
