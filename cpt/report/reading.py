"""Read what a run left behind. Only results.json must be there; of the rest it is noted what is missing."""

import json
from dataclasses import dataclass
from pathlib import Path

from cpt.errors import UserError

FORMAT = 1  # of results.json
KEYS = {  # that the report reads, of results.json
    **dict.fromkeys(("tasks", "accuracy", "points", "gates", "stages"), list),
    **dict.fromkeys(("held_out", "held_out_tasks", "sampled", "metrics", "intervals"), dict),
    **dict.fromkeys(("cost", "evaluation_cost", "verifier_errors"), dict),
    "complete": bool,
    "recipe": str,
    "seed": int,
}
MANIFEST = dict.fromkeys(("versions", "hardware", "data", "git"), dict) | dict.fromkeys(
    ("cpt", "created", "command"), str
)
MANIFEST |= dict.fromkeys(("seed", "model_seed", "data_seed", "world_size"), int)


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

    @property
    def points(self) -> list[str]:
        return [Path(point).name for point in self.results["points"]]


def read(folder: Path) -> Run:
    """The run in `folder`.

    Raises:
        UserError: there is no results.json, it is of another format, or a file holds a broken line.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: holds no results.json; give the directory of a run that has evaluated at least its base"
        )
    results = parse(path, read_text(path))
    if results.get("format") != FORMAT:
        raise UserError(f"{path}: format {results.get('format')!r} is not {FORMAT}: read it with the cpt that wrote it")
    check(path, results, KEYS, "restore the file, or run again")
    missing = []

    def text(name: str) -> str | None:
        if not (folder / name).is_file():
            missing.append(name)
            return None
        return read_text(folder / name)

    names = [f"evaluations/{Path(point).name}.jsonl" for point in results["points"]]
    answers = {Path(name).stem: lines(folder / name, found) for name in names if (found := text(name)) is not None}
    logged = lines(folder / "metrics.jsonl", text("metrics.jsonl") or "")
    path, stored = folder / "manifest.json", text("manifest.json")
    manifest = None if stored is None else parse(path, stored)
    if manifest is not None:
        check(path, manifest, MANIFEST, "restore the file, or delete it (the report can be made without)")
    return Run(
        folder=folder,
        results=results,
        logged=logged,
        answers=answers,
        manifest=manifest,
        recipe=results.get("resolved_recipe") or text("recipe.yaml"),
        missing=tuple(missing),
    )


def check(path: Path, found: dict, keys: dict[str, type], remedy: str) -> None:
    """Raise UserError where a key is not there, or its value is of another kind."""
    lacking = [key for key, kind in keys.items() if not isinstance(found.get(key), kind)]
    if lacking:
        raise UserError(f"{path}: no (or no right) {', '.join(lacking)}: {remedy}")


def lines(path: Path, text: str) -> list[dict]:
    """JSON lines. A last line without its end is of a process that was killed while writing it, and is left out."""
    whole = text.split("\n")[:-1]
    return [parse(f"{path}:{number}", line) for number, line in enumerate(whole, start=1) if line.strip()]


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason}): restore the file or run again") from error


def parse(place: Path | str, text: str) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}: not JSON ({error.msg}, column {error.colno}): restore the file or run again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{place}: must be a JSON object, not {text.strip()[:40]!r}: restore the file or run again")
    return value
