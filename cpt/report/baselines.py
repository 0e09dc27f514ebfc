"""The baselines beside the run: their scores by task, and what the run is against them."""

from cpt.report import colormap
from cpt.report.formatting import count, duration, interval, score, signed
from cpt.report.reading import Run

ABOUT = {
    "frozen": "the untouched model",
    "joint": "one model trained on all tasks together",
    "naive": "the same stream without strategies",
    "experts": "each task trained alone, from the untouched model",
}
MEASURES = {
    "gain": ("Gain", "final model minus untouched model, mean over tasks"),
    "gain_of_strategies": ("Gain of the strategies", "final model minus naive, mean over tasks"),
    "intransigence_to_joint": (
        "Intransigence to the joint model",
        "joint minus each task right after its training, mean over tasks; the joint model is the one on all tasks",
    ),
    "intransigence_to_experts": (
        "Intransigence to the experts",
        "each expert minus its task right after its training, mean over tasks",
    ),
    "lead_of_joint": ("Lead of the joint model", "joint minus final model, mean over tasks"),
    "share_of_joint_gain": ("Share of the joint model's gain", "final minus untouched, by joint minus untouched"),
}


def baselines(run: Run) -> dict | None:
    """What the section shows; None where the run has no baselines."""
    made, results = run.results.get("baselines"), run.results
    if not made:
        return None
    suites = list(results["held_out"])
    own = {
        "name": "this run",
        "about": "the final model",
        "cells": [
            cell("this run", task, value, ends)
            for task, value, ends in zip(
                results["tasks"], results["accuracy"][-1], results["intervals"]["accuracy"][-1], strict=True
            )
        ],
        "held": [plain_cell(results["held_out"][suite][-1]) for suite in suites],
        "mean": score(sum(results["accuracy"][-1]) / len(results["tasks"])),
        "steps": count(sum(stage["steps"] for stage in results["stages"])),
        "time": duration(results["cost"]["seconds"]),
        "links": [],
    }
    return {
        "tasks": results["tasks"],
        "suites": suites,
        "lines": list(levels(results, 0)),
        "rows": [own, *(row(each, results["tasks"], suites) for each in made["rows"])],
        "measures": [
            {
                "name": name,
                "about": about,
                "value": (score if key == "share_of_joint_gain" else signed)(made["measures"][key]["value"]),
                "interval": interval(made["measures"][key]["interval"]),
            }
            for key, (name, about) in MEASURES.items()
            if key in made["measures"]
        ],
    }


def row(each: dict, tasks: list[str], suites: list[str]) -> dict:
    cells = [
        cell(each["name"], task, value, ends)
        for task, value, ends in zip(tasks, each["accuracy"], each["intervals"], strict=True)
    ]
    return {
        "name": each["name"],
        "about": ABOUT[each["name"]],
        "cells": cells,
        "held": [plain_cell(each["held_out"].get(suite)) for suite in suites],
        "mean": score(sum(each["accuracy"]) / len(tasks)),
        "steps": count(each["steps"]),
        "time": "from cache" if each["from_cache"] else duration(each["seconds"]),
        "links": each["runs"],
    }


def cell(name: str, task: str, value: float, ends) -> dict:
    title = f"{task}, {name}: {value:.3f}, 95 % interval {ends[0]:.3f} to {ends[1]:.3f}"
    return {"text": score(value), "title": title, "interval": interval(ends), "style": colormap.style(value)}


def plain_cell(value: float | None) -> dict:
    return {"text": score(value), "style": "" if value is None else colormap.style(value)}


def levels(results: dict, column: int) -> dict[str, float]:
    """The lines of the baselines that were trained, in the chart of one task."""
    rows = results.get("baselines", {"rows": ()})["rows"]
    return {each["name"]: each["accuracy"][column] for each in rows if each["name"] != "frozen"}
