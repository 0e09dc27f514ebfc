"""What the answers look like, task by task, and every question with its answers: greedy ones, at the base and now."""

from cpt.evaluation import answers
from cpt.report.examples import answer_text, clipped
from cpt.report.formatting import DASH, score
from cpt.report.reading import Run

BUDGET = 1_500_000  # characters of all questions and answers together: the report stays one file that opens at once
SHORTEST, LONGEST = 60, 500  # characters that are shown of one text
RIGHT = 0.5  # from this score on an answer is marked as right


def places(run: Run) -> list[tuple[str | None, str]]:
    """The tasks of the stream, then those of the suites."""
    results = run.results
    return [
        *((None, task) for task in results["tasks"]),
        *((suite, task) for suite, tasks in results["held_out_tasks"].items() for task in tasks),
    ]


def shapes(run: Run) -> list[dict]:
    """For each task: chance, and at the base and now the distribution of its answers and the shares that cannot count."""
    if not set(run.points) <= set(run.answers):
        return []
    made = []
    for suite, task in places(run):
        lines = {point: answers.greedy(run.answers[point], suite, task) for point in run.points}
        first, last = lines[run.points[0]], lines[run.points[-1]]
        if not first:
            continue
        labels, guess = answers.few(first), answers.chance(first)
        before = {line["row"]: answers.given(line) for line in first}
        made.append(
            {
                "task": task if suite is None else f"{suite} / {task}",
                "questions": len(first),
                "chance": ""
                if guess is None
                else f"{score(guess[0])}; always the most frequent answer: {score(guess[1])}",
                "labels": labels,
                "points": [point_row(point, lines[point], labels) for point in ends(run.points)],
                "changed": sum(before[line["row"]] != answers.given(line) for line in last),
                "confusion": confusion_rows(last, labels),
                "now": run.points[-1],
            }
        )
    return made


def ends(points: list[str]) -> list[str]:
    return list(dict.fromkeys((points[0], points[-1])))


def point_row(point: str, lines: list[dict], labels: list[str]) -> dict:
    counts = answers.distribution(lines, labels) if labels else {}
    n = len(lines)
    found = answers.one_answer(lines)
    return {
        "point": point,
        "counts": [f"{label}: {count}" for label, count in counts.items() if count or label != answers.OTHER],
        "unread": score(counts[answers.OTHER] / n) if labels else DASH,
        "unfinished": score(sum(not line["finished"] for line in lines) / n),
        "empty": score(sum(not line["completion"].strip() for line in lines) / n),
        "length": f"{sum(len(line['completion']) for line in lines) / n:.0f}",
        "one": "" if found is None else f"{found[1]} of {n} answers are {found[0]!r}",
    }


def confusion_rows(lines: list[dict], labels: list[str]) -> list[dict]:
    table = answers.confusion(lines, labels)
    return [{"expected": want, "given": list(row.values())} for want, row in table.items()]


def odd(shown: list[dict]) -> list[str]:
    """The tasks in which one answer stands for nearly all, for the top of the report."""
    return [f"{each['task']} at {row['point']}: {row['one']}" for each in shown for row in each["points"] if row["one"]]


def questions(run: Run) -> list[dict]:
    """Every question: what was asked and expected, the answers at the base and now, and at which points it was right."""
    if not set(run.points) <= set(run.answers):
        return []
    first, last = run.points[0], run.points[-1]
    total = sum(line["mode"] == "greedy" for line in run.answers[first])
    longest = min(LONGEST, max(SHORTEST, BUDGET // max(1, 4 * total)))
    made = []
    for suite, task in places(run):
        by_point = [
            {line["row"]: line for line in answers.greedy(run.answers[point], suite, task)} for point in run.points
        ]
        if by_point[0]:
            rows = [question(row, by_point, longest) for row in by_point[0]]
            name = task if suite is None else f"{suite} / {task}"
            made.append({"task": name, "rows": rows, "first": first, "last": last if last != first else None})
    return made


def question(row: str, by_point: list[dict], longest: int) -> dict:
    lines = [lines[row] for lines in by_point]
    expected = lines[0]["answer"]
    return {
        "row": row,
        "asked": cut(clipped(lines[0]["prompt"]), longest),
        "expected": DASH if expected is None else cut(clipped(expected), longest),
        "before": cut(answer_text(lines[0]), longest),
        "now": cut(answer_text(lines[-1]), longest),
        "marks": "".join("✓" if line["score"] >= RIGHT else "✕" for line in lines),
    }


def cut(text: str, longest: int) -> str:
    """The end of a long text: the question and the answer stand there."""
    return text if len(text) <= longest else f"[…] {text[-longest:]}"
