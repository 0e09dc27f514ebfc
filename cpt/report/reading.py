"""Read what a run left behind. Only results.json must be there; of the rest it is noted what is missing or damaged."""

import json
from dataclasses import dataclass
from pathlib import Path

from cpt.errors import UserError
from cpt.files import digest, seal_holds
from cpt.json_lines import places, read_lines
from cpt.layout import check_kinds
from cpt.records import Answer, EvaluationCost, Logged, Manifest, Results, fingerprint, wrong
from cpt.report.agreement import disagreements, disagreements_with_answers

FORMAT = 1  # of results.json
AGAIN = "repeat the run's command, which writes it again"
NOT_WRITTEN = "its content is not what was written (`sha256`)"


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
    problem = wrong(results, Results) or next(disagreements(results), None) or edited(results)
    if problem:
        raise UserError(f"{path}: is damaged: {problem}: {AGAIN}")
    names = [f"evaluations/{Path(point).name}.jsonl" for point in results["points"]]
    logged = ["metrics.jsonl"] if results.get("logged", 1) else []  # nothing is written where nothing was logged
    wanted = [*names, *logged, "manifest.json", *(["recipe.yaml"] if "resolved_recipe" not in results else [])]
    missing = [name for name in wanted if not (folder / name).is_file()]
    answers = {Path(name).stem: answers_of(folder / name) for name in names if name not in missing}
    check_questions(folder, answers)
    if problem := next(disagreements_with_answers(results, answers), None):
        raise UserError(f"{path}: is damaged, or those are: {problem}: {AGAIN}")
    path, manifest = folder / "manifest.json", None
    if path.is_file():
        manifest = parse(path, "restore the file, or delete it (the report can be made without it)")
        if problem := wrong(manifest, Manifest):
            raise UserError(f"{path}: is damaged: {problem}: restore the file, or delete it")
    logged, damaged = logged_lines(folder / "metrics.jsonl", results.get("logged", 0) if results["complete"] else 0)
    if manifest is not None and not seal_holds(manifest):
        damaged += (
            f"{path}: damaged: {NOT_WRITTEN}; what the report says about versions, seeds and rows may be wrong",
        )
    return Run(folder, results, logged, answers, manifest, recipe_of(folder, results), tuple(missing), damaged)


def edited(results: dict) -> str | None:
    """Whether it is not what the run wrote; None for runs of a time when results had no hash."""
    return NOT_WRITTEN if results.get("sha256", fingerprint(results)) != fingerprint(results) else None


def answers_of(path: Path) -> list[dict]:
    """The answers of a point; each of its lines must be one, and all of them those that were written."""
    lines, damaged = read_lines(path.read_bytes(), Answer)
    if damaged:
        raise UserError(f"{path}:{damaged[0].number}: is damaged: {damaged[0].why}: {AGAIN}")
    seal = path.with_suffix(".cost.json")
    if seal.is_file():
        cost = parse(seal, AGAIN)
        if problem := wrong(cost, EvaluationCost):
            raise UserError(f"{seal}: is damaged: {problem}: {AGAIN}")
        if cost["sha256"] != digest(path):
            raise UserError(f"{path}: is damaged: not the answers that were written (hash in {seal.name}): {AGAIN}")
    return lines


def check_questions(folder: Path, answers: dict[str, list[dict]]) -> None:
    """Raise UserError where the points were not asked the same questions: lines are missing, or another run's."""
    asked = {point: {question(line) for line in lines} for point, lines in answers.items()}
    every = set().union(*asked.values())
    for point, questions in asked.items():
        if lacking := len(every - questions):
            file = folder / "evaluations" / f"{point}.jsonl"
            raise UserError(
                f"{file}: is damaged: {lacking} of {len(every)} answers of the other points are missing: {AGAIN}"
            )


def question(line: dict) -> tuple:
    return line["suite"], line["task"], line["row"], line["mode"], line["sample"]


def logged_lines(path: Path, count: int) -> tuple[list[dict], tuple[str, ...]]:
    """What the trainers logged, and of lines that are damaged or gone (there were `count`) one line that says so."""
    if not path.is_file():
        return [], ()
    lines, damaged = read_lines(path.read_bytes(), Logged)
    gone = count - len(lines) - len(damaged)
    what = places(damaged) if damaged else f"{gone} of {count} lines are missing" if gone > 0 else None
    return lines, (f"{path}: damaged: {what}; the training curves do not show them",) if what else ()


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
