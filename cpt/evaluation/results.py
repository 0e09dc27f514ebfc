"""The numbers of results.json, from the evaluated answers alone: the matrix, held-out scores, metrics and intervals.

Every answer of a point is a line (docs/run-directory.md). Answers of different points are paired by their row,
so all points must have been asked the same questions. A held-out suite's score is the mean over all its questions.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from cpt.evaluation import metrics, statistics
from cpt.metric_kinds import EXTREMES
from cpt.records import Answer

Key = tuple[str | None, str]  # suite (None for the stream) and task


def numbers(
    tasks: Sequence[str],
    suites: Sequence[str],
    points: Sequence[str],
    lines_by_point: Mapping[str, Sequence[Answer]],
    complete: bool,
    k: Sequence[int] = (),
    own: Mapping[str, metrics.Metric] = MappingProxyType({}),
) -> dict:
    """The keys accuracy ... verifier_errors of results.json, for the points evaluated so far (in order, base first).

    `k` is evaluation.sampled.k of the recipe; `own` are metrics of the user's own. Metrics and
    their intervals are null until the stream is complete.
    """
    assert complete == (len(points) == len(tasks) + 1), f"{len(points)} rows for {len(tasks)} tasks"
    unknown = dict.fromkeys([*metrics.METRICS, *own])
    scores = greedy_scores([lines_by_point[point] for point in points])
    matrix = [scores[None, task] for task in tasks]
    held_out = {suite: np.hstack([scores[key] for key in scores if key[0] == suite]) for suite in suites}
    R = np.stack([each.mean(1) for each in matrix], axis=1)
    return {
        "accuracy": R.tolist(),
        "sampled": sampled(tasks, points, lines_by_point, k),
        "held_out": {suite: each.mean(1).tolist() for suite, each in held_out.items()},
        "held_out_tasks": {
            suite: {task: each.mean(1).tolist() for (s, task), each in scores.items() if s == suite} for suite in suites
        },
        "metrics": metrics.summary(R, {**metrics.METRICS, **own}) if complete else unknown,
        "intervals": {
            "accuracy": [[statistics.interval(each[row]) for each in matrix] for row in range(len(points))],
            "held_out": {suite: [statistics.interval(row) for row in each] for suite, each in held_out.items()},
            **(
                intervals(tasks, matrix, R, held_out, own)
                if complete
                else {"metrics": unknown, "forgetting_by_task": {}, "below_base_by_task": {}, "held_out_drop": {}}
            ),
        },
        "selection_bias": selection_bias(matrix) if complete else {},
        "questions": {task: each.shape[1] for task, each in zip(tasks, matrix, strict=True)},
        "held_out_questions": {suite: each.shape[1] for suite, each in held_out.items()},
        "verifier_errors": {point: errors for point in points if (errors := count_errors(lines_by_point[point]))},
    }


def intervals(
    tasks: Sequence[str],
    matrix: list[np.ndarray],
    R: np.ndarray,
    held_out: dict[str, np.ndarray],
    own: Mapping[str, metrics.Metric],
) -> dict:
    """Intervals of what compares rows: paired, on the same questions. That of one task takes its best row as given."""
    drawn = statistics.bootstrap(matrix, {**metrics.METRICS, **own})
    parts = {name: metrics.parts(R, metric) for name, metric in {**metrics.METRICS, **own}.items()}
    values = {name: metric_interval(parts[name], matrix, drawn[name], name in own) for name in parts}
    if (bias := selection_bias(matrix).get("forgetting", 0.0)) > 0 and values["forgetting"] is not None:
        low, high = values["forgetting"]
        values["forgetting"] = low - bias, high  # what chance alone may have raised it by
    values |= {name: statistics.largest_difference(pairs) for name in EXTREMES if (pairs := extremes(name, matrix))}
    return {
        "metrics": values,
        "forgetting_by_task": {tasks[part[0]]: part_interval(part, matrix) for part in parts["forgetting"]},
        "below_base_by_task": {
            task: statistics.paired_difference(each[0], each[-1]) for task, each in zip(tasks, matrix, strict=True)
        },
        "held_out_drop": {suite: statistics.paired_difference(each[0], each[-1]) for suite, each in held_out.items()},
    }


def metric_interval(
    parts: list[metrics.Part], matrix: list[np.ndarray], drawn: tuple | None, own: bool = False
) -> tuple[float, float] | None:
    """Of a metric that is the mean of `parts` (metrics.parts); `drawn` is its bootstrap interval.

    Of one part, that part's own. Else the wider end on each side of the bootstrap, which knows that the best row is
    chosen, and of MOVER, which keeps a width where the questions drawn all came out alike. A user's `own` metric may be no
    such mean, or choose its one part among others: so the bootstrap counts always.
    """
    if not parts:
        return drawn
    ends = [part_interval(part, matrix) for part in parts]
    values = [matrix[i][row].mean() - (0 if minus is None else matrix[i][minus].mean()) for i, row, minus in parts]
    return ends[0] if len(parts) == 1 and not own else statistics.wider(drawn, statistics.mover(values, ends))


def extremes(name: str, matrix: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs of scores, better and worse, of which a metric of EXTREMES is the largest difference of means."""
    if name == "below_base":
        return [(scores[0], scores[-1]) for scores in matrix]
    return [(row, scores[-1]) for i, scores in enumerate(matrix) for row in scores[i + 1 : -1]]


def selection_bias(matrix: list[np.ndarray]) -> dict[str, float]:
    """By how much choosing each task's best row raises `forgetting`; empty for one task, or one question.

    It is the metric minus what is left of it where half of the questions choose and the other half measure: about 0 where one
    row is clearly the best, .03 and more where nothing changed at all.
    """
    rows = [[row - scores[-1] for row in scores[i + 1 : -1]] for i, scores in enumerate(matrix[:-1])]
    R = np.stack([each.mean(1) for each in matrix], axis=1)
    bias = {}
    if rows and (left := statistics.chosen_on_halves(rows)) is not None:
        bias["forgetting"] = float(metrics.forgetting(R)) - float(np.mean(left))
    return bias


def part_interval(part: tuple[int, int, int | None], matrix: list[np.ndarray]) -> tuple[float, float]:
    task, row, minus = part
    scores = matrix[task]
    return (
        statistics.interval(scores[row]) if minus is None else statistics.paired_difference(scores[row], scores[minus])
    )


def greedy_scores(lines_by_row: Sequence[Sequence[Answer]]) -> dict[Key, np.ndarray]:
    """(rows, n) scores of the greedy answers of every task, the questions in one order (by row id) in all rows."""
    rows: list[dict[Key, dict[str, float]]] = []
    for lines in lines_by_row:
        rows.append({})
        for line in lines:
            if line["mode"] == "greedy":
                scores = rows[-1].setdefault((line["suite"], line["task"]), {})
                assert line["row"] not in scores, f"{line['task']}: two questions have the row id {line['row']!r}"
                scores[line["row"]] = line["score"]
    for row in rows[1:]:
        assert row.keys() == rows[0].keys(), "not every point was asked the same tasks"
        assert all(row[key].keys() == rows[0][key].keys() for key in row), "a task's questions differ between points"
    return {key: np.array([[row[key][id] for id in sorted(rows[0][key])] for row in rows]) for key in rows[0]}


def sampled(
    tasks: Sequence[str], points: Sequence[str], lines_by_point: Mapping[str, Sequence[Answer]], k: Sequence[int]
) -> dict[str, dict[str, list[float]]]:
    """{task: {"pass@k": a value for each point}}: the mean over questions; an answer is right if its score is 1."""
    chances_of: dict[str, dict[str, list[float]]] = {}
    for task in tasks if k else ():
        chances_of[task] = {f"pass@{each}": [] for each in k}
        for point in points:
            right: dict[str, list[bool]] = {}
            for line in lines_by_point[point]:
                if line["mode"] == "sampled" and line["suite"] is None and line["task"] == task:
                    right.setdefault(line["row"], []).append(line["score"] >= 1)
            for each in k:
                chances = [metrics.pass_at_k(len(answers), sum(answers), each) for answers in right.values()]
                chances_of[task][f"pass@{each}"].append(float(np.mean(chances)))
    return chances_of


def count_errors(lines: Sequence[Answer]) -> dict[str, dict[str, int]]:
    """{task: {kind of error: times}}, both modes; a held-out task stands as SUITE/TASK. The kind is the first word."""
    errors: dict[str, Counter] = {}
    for line in lines:
        if line["error"]:
            name = line["task"] if line["suite"] is None else f"{line['suite']}/{line['task']}"
            errors.setdefault(name, Counter())[line["error"].split()[0].strip(":,.")] += 1
    return {name: dict(counts) for name, counts in errors.items()}
