"""Answers worth reading: those that were right and are now wrong, and what the verifiers could not score."""

from cpt.evaluation.metrics import best_rows
from cpt.report.formatting import DASH, listed
from cpt.report.reading import Run

SHOWN = 10  # examples of one task
LONGEST = 1500  # characters of one text
NOTHING = "(nothing)"
ERRORS = {  # the kinds that a Scorer tells apart, in words
    "none": "returned None instead of a number",
    "nan": "returned NaN, which is not a number",
    "inf": "returned an infinite number",
    "raised": "raised an error",
    "timeout": "took too long and was stopped",
    "died": "ended its process",
}
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
    changes = [compare(run, suite, task, before, points[-1]) for suite, task, before in pairs]
    return sorted((each for each in changes if each["worse"]), key=lambda each: -each["worse"])


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
        "expected": DASH if now["answer"] is None else clipped(now["answer"]),
        "before": answer_text(before),
        "now": answer_text(now),
    }


def answer_text(line: dict) -> str:
    return clipped(line["completion"]) + ("" if line["finished"] else " … (cut off)")


def clipped(text: object) -> str:
    """At most LONGEST characters: the beginning and the end, which holds the answer. Empty or blank text says so."""
    text = str(text)
    if not text.strip():
        return NOTHING
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 3]} […] {text[-2 * LONGEST // 3 :]}"


def verifier_errors(run: Run) -> list[dict]:
    """A row for each task and kind of failure, added up over the points; the most frequent first."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for point, tasks in run.results["verifier_errors"].items():
        for task, kinds in tasks.items():
            for kind, times in kinds.items():
                counts.setdefault((task, kind), {})[point] = times
    rows = [
        {
            "task": task,
            "what": ERRORS.get(kind, kind),
            "times": sum(at.values()),
            "where": "every point" if len(at) == len(run.points) > 1 else listed(list(at)),
        }
        for (task, kind), at in counts.items()
    ]
    return sorted(rows, key=lambda row: -row["times"])
