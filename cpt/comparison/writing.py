"""A comparison as files: compare.html, compare.md, compare.json, compare.csv and flips.csv."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cpt.comparison.changes import Change, Pair
from cpt.comparison.comparable import name_of
from cpt.comparison.compare import Comparison
from cpt.comparison.inference import Estimate
from cpt.comparison.view import view
from cpt.comparison.wording import sentence
from cpt.errors import UserError
from cpt.report.render import HERE as REPORT
from cpt.report.render import template

HERE = Path(__file__).parent
FORMAT = 1  # of compare.json
NUMBERS = ("kind", "group", "baseline", "name", "value", "low", "high", "p", "p_holm", "verdict", "seeds")
FLIPS = ("group", "baseline", "suite", "task", "row", "direction", "prompt", "expected", "baseline_answer", "answer")


def write(comparison: Comparison, out: Path) -> Path:
    """Write the files into the folder `out`; returns the HTML file. Raises UserError where it cannot be."""
    from cpt.files import write_json, write_whole

    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file; give a folder for the report")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be made ({error.strerror}); give another folder") from error
    seen = view(comparison)
    style = Markup((REPORT / "style.css").read_text("utf-8") + (HERE / "compare.css").read_text("utf-8"))
    html = template("compare.html.j2", autoescape=True, folder=HERE).render(seen, style=style)
    markdown = template("compare.md.j2", autoescape=False, folder=HERE).render(seen)
    write_whole(out / "compare.html", html)
    write_whole(out / "compare.md", re.sub(r"\n{3,}", "\n\n", markdown).strip() + "\n")
    write_json(out / "compare.json", record(comparison))
    write_whole(out / "compare.csv", csv_of(NUMBERS, number_rows(comparison)))
    write_whole(out / "flips.csv", csv_of(FLIPS, flip_rows(comparison)))
    return out / "compare.html"


# -- JSON and CSV --------------------------------------------------------------------------------------------------------


def record(comparison: Comparison) -> dict[str, Any]:
    """The content of compare.json (docs/compare.md)."""
    return {
        "format": FORMAT,
        "baseline": comparison.baseline.label,
        "tasks": [name_of(key) for key in comparison.baseline.shared],
        "questions": {name_of(key): each.shape[1] for key, each in comparison.baseline.final.items()},
        "groups": [
            {
                "label": group.label,
                "source": group.subjects[0].source,
                "seeds": group.seeds,
                "folders": [str(subject.folder) for subject in group.subjects],
                "measures": {name: estimate_record(group.estimates[name]) for name in comparison.measures},
                "cost": group.cost,
            }
            for group in comparison.groups
        ],
        "pairs": [pair_record(pair) for pair in comparison.pairs],
        "notes": comparison.notes,
    }


def pair_record(pair: Pair) -> dict[str, Any]:
    return {
        "group": pair.group.label,
        "baseline": pair.baseline.label,
        "verdict": pair.verdict,
        "reason": sentence(pair),
        "covers": pair.covers,
        "measures": {change.name: change_record(change) for change in pair.changes},
        "tasks": {
            task.name: change_record(task)
            | {"test": task.test, "questions": task.questions, "gained": task.gained, "lost": task.lost}
            for task in pair.tasks
        },
        "flips": [
            {"task": name_of(flip.key), "row": flip.row, "direction": direction(flip.gained)} for flip in pair.flips
        ],
    }


def estimate_record(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": list(estimate.interval), "seeds": list(estimate.seeds)}


def change_record(change: Change) -> dict[str, Any]:
    tested = {"p": change.estimate.p, "p_holm": change.adjusted, "verdict": change.verdict}
    return estimate_record(change.estimate) | tested


def direction(gained: bool) -> str:
    return "wrong -> right" if gained else "right -> wrong"


def csv_of(head: tuple[str, ...], rows: list[list]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def number_rows(comparison: Comparison) -> list[list]:
    """A row for each measure of each group, and for each difference of each pair."""
    rows = []
    for group in comparison.groups:
        for name in comparison.measures:
            estimate = group.estimates[name]
            rows.append(["group", group.label, "", name, *numbers(estimate), "", "", "", listed(estimate)])
    for pair in comparison.pairs:
        for kind, changes in (("difference", pair.changes), ("task", pair.tasks)):
            for change in changes:
                tested = [change.estimate.p, change.adjusted, change.verdict, listed(change.estimate)]
                names = [pair.group.label, pair.baseline.label, change.name]
                rows.append([kind, *names, *numbers(change.estimate), *tested])
    return rows


def numbers(estimate: Estimate) -> list[float]:
    return [estimate.value, *estimate.interval]


def listed(estimate: Estimate) -> str:
    return " ".join(map(str, estimate.seeds))


def flip_rows(comparison: Comparison) -> list[list]:
    return [
        [
            pair.group.label, pair.baseline.label, flip.key[0] or "", flip.key[1], flip.row, direction(flip.gained),
            plain(flip.prompt), plain(flip.expected), plain(flip.baseline_answer), plain(flip.answer),
        ]
        for pair in comparison.pairs
        for flip in pair.flips
    ]  # fmt: skip


def plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
