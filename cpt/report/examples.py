"""Answers worth reading: those that were right and are now wrong, and what the verifiers could not score."""

from cpt.evaluation.metrics import best_rows
from cpt.report.reading import Run

SHOWN = 10  # examples of one task
LONGEST = 1500  # characters of one text
FLIP = 0.5  # a score that falls by this much has flipped; for answers that are right or wrong: from right to wrong


def flips(run: Run) -> list[dict]:
    """For each task what was right at its best and is wrong now; for each held-out task what the base model could do.

    A best point is the one that `forgetting` counts from. Most flips first; tasks without any are left out.
    """
    points, results = run.points, run.results
    done = len(points) - 1
    if done < 1 or not set(points) <= set(run.answers):
        return []
    best = best_rows([row[:done] for row in results["accuracy"]])
    pairs = [(None, task, points[row]) for task, row in zip(results["tasks"], best, strict=False)]
    pairs += [(suite, task, points[0]) for suite, tasks in results["held_out_tasks"].items() for task in tasks]
    found = [compare(run, suite, task, before, points[-1]) for suite, task, before in pairs]
    return sorted((each for each in found if each["worse"]), key=lambda each: -each["worse"])


def compare(run: Run, suite: str | None, task: str, before: str, now: str) -> dict:
    """How the answers to one task's questions changed between two points, with examples in the order of the rows."""
    first, second = (greedy(run.answers[point], suite, task) for point in (before, now))
    change = {row: second[row]["score"] - first[row]["score"] for row in first}
    worse = [row for row in first if change[row] <= -FLIP]
    return {
        "task": task if suite is None else f"{suite} / {task}",
        "before": before,
        "now": now,
        "questions": len(first),
        "worse": len(worse),
        "better": sum(each >= FLIP for each in change.values()),
        "examples": [example(first[row], second[row]) for row in worse[:SHOWN]],
    }


def greedy(lines: list[dict], suite: str | None, task: str) -> dict[str, dict]:
    return {
        line["row"]: line for line in lines if (line["suite"], line["task"], line["mode"]) == (suite, task, "greedy")
    }


def example(before: dict, now: dict) -> dict:
    return {
        "asked": clipped(now["prompt"]),
        "expected": clipped(now["answer"]),
        "before": clipped(before["completion"]),
        "now": clipped(now["completion"]) + ("" if now["finished"] else " … (cut off)"),
    }


def clipped(text: str | None) -> str:
    """At most LONGEST characters: the beginning and the end, which holds the answer."""
    text = "" if text is None else str(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 3]} […] {text[-2 * LONGEST // 3 :]}"


def verifier_errors(results: dict) -> list[dict]:
    return [
        {"point": point, "task": task, "kind": kind, "times": times}
        for point, tasks in results["verifier_errors"].items()
        for task, kinds in tasks.items()
        for kind, times in kinds.items()
    ]
