"""The stability gap: accuracy within stages, over the optimiser steps of the stream."""

from markupsafe import Markup, escape

from cpt.report.charts import SIZES, Frame, columns_of, short
from cpt.report.formatting import duration, score
from cpt.report.reading import Run

METRICS = {
    "min_acc": ("min-ACC", "mean over earlier tasks of the worst accuracy after their training"),
    "wc_acc": ("WC-ACC", "the same with the last task's accuracy, each task of equal weight"),
    "windowed_forgetting": ("WF", "mean over tasks of the largest drop within {window} evaluations"),
    "windowed_plasticity": ("WP", "mean over tasks of the largest rise within {window} evaluations"),
}


def during(run: Run) -> dict | None:
    """What the section shows; None where nothing was evaluated within a stage."""
    made = run.results.get("during")
    if not made or not made["evaluations"]:
        return None
    columns = columns_of(len(made["curves"]))
    total = max(1, made["stages"][-1]["end"], *(curve["steps"][-1] for curve in made["curves"].values()))
    return {
        "charts": [
            {"title": task, "value": value_text(curve, number), "svg": chart(task, made, total, columns)}
            for number, (task, curve) in enumerate(made["curves"].items(), start=1)
        ],
        "columns": columns,
        "every": made["every"],
        "questions": max(made["questions"].values()),
        "evaluations": made["evaluations"],
        "time": duration(made["seconds"]),
        "share": f"{100 * made['seconds'] / (run.results['cost']['seconds'] or 1):.0f} %",
        "metrics": [
            {"name": name, "about": about.format(window=made["window"]), "value": score(made["metrics"][key])}
            for key, (name, about) in METRICS.items()
            if made["metrics"][key] is not None
        ],
    }


def value_text(curve: dict, number: int) -> str:
    """The lowest value after the task's own training, or, where nothing came after, the last one."""
    least = lowest(curve, number)
    return f"last {score(curve['accuracy'][-1])}" if least is None else f"lowest {score(least)}"


def lowest(curve: dict, number: int) -> float | None:
    """The lowest accuracy after the task's own training; None where no later one has begun."""
    return min((a for a, begun in zip(curve["accuracy"], curve["after"], strict=True) if begun > number), default=None)


def chart(task: str, made: dict, total: int, columns: int) -> Markup:
    """One task's accuracy over the steps of the stream; a line stands where each stage begins, a stripe over its own."""
    width, height, letter = SIZES[columns]
    frame = Frame(width, height, x=(0, total), y=(0, 1), left=36, right=18, bottom=26)
    curve = made["curves"][task]
    top, bottom = frame.top, frame.height - frame.bottom
    stripes, lines, ticks = [], [], []
    for number, stage in enumerate(made["stages"]):
        left, right = frame.px(stage["start"]), frame.px(stage["end"])
        if stage["task"] == task:
            stripes.append(
                f'<rect class="stripe" x="{left:.1f}" y="{top}" width="{max(0, right - left):.1f}" '
                f'height="{bottom - top}"><title>trained here</title></rect>'
            )
        if number:
            lines.append(f'<line class="boundary" x1="{left:.1f}" x2="{left:.1f}" y1="{top}" y2="{bottom}"/>')
        if right - left > 2 * letter:
            ticks.append(
                frame.tick(
                    (stage["start"] + stage["end"]) / 2, short(f"{number + 1}-{stage['task']}", right - left, letter)
                )
            )
    dots = "".join(
        f'<circle class="dot" cx="{frame.px(x):.1f}" cy="{frame.py(y):.1f}" r="2.2"><title>step {x}: {y:.3f}</title></circle>'
        for x, y in zip(curve["steps"], curve["accuracy"], strict=True)
    )
    label = f"accuracy of {task} within stages, by optimiser step: {', '.join(f'{y:.3f}' for y in curve['accuracy'])}"
    return frame.svg(
        escape(label),
        *stripes,
        frame.grid((0, 0.5, 1)),
        *lines,
        frame.line(curve["steps"], curve["accuracy"], "line"),
        dots,
        *ticks,
    )
