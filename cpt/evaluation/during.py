"""Evaluation within a stage: the tasks learnt so far and the present one, asked the same few questions every some steps.

What is asked are the first `evaluation.during.questions` evaluation rows of each task, greedily, by the run's own engine with
the weights as they are. The answers of the committed points to the same rows are put beside them, so a task's curve also has
what it was before its training and after each task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from cpt import ranks
from cpt.data.stream import Stream
from cpt.evaluation import stability
from cpt.evaluation.suites import likelihood, rows
from cpt.evaluation.suites.base import Asking
from cpt.recipe import Recipe
from cpt.records import Answer, During, DuringCurve, DuringLine, StageRecord

TaskScores = dict[str, dict[str, float]]  # {task: {row id: score}}


def first_questions(stream: Stream, tasks: int, questions: int) -> Stream:
    """The first `tasks` tasks with their first `questions` evaluation rows; no suite."""
    return Stream(tuple(replace(task, eval=task.eval[:questions]) for task in stream.tasks[:tasks]), {})


def ask(policy, asking: Asking, stream: Stream) -> TaskScores:
    """The scores of the present weights of `policy`, on every rank: a collective. The engine takes the weights first.

    `asking` has a `Stop` that is never asked to stop and no screen to draw on: the step is over, its line is short.
    """
    asking.engine.sync(policy, asking.encoding.tokenizer)
    scores: TaskScores = {}
    for line in ranks.gather(rows.ask(asking, stream) + likelihood.ask(asking, stream)):
        scores.setdefault(line["task"], {})[line["row"]] = line["score"]
    order = {task.name: [row["id"] for row in task.eval] for task in stream.tasks}
    return {task: {row: scores[task][row] for row in names if row in scores[task]} for task, names in order.items()}


# -- what results.json says of it ----------------------------------------------------------------------------------------


def summary(
    recipe: Recipe,
    logged: Sequence[DuringLine],
    stages: Sequence[StageRecord],
    lines_by_point: Sequence[Sequence[Answer]],
) -> During:
    """The key `during` of results.json.

    `logged` are the lines of during.jsonl in their order, `stages` the records of committed stages, `lines_by_point` the
    answers of the points evaluated so far, 00-base first. Metrics are null until the stream is complete.
    """
    spec, tasks = recipe.evaluation.during, [task.task for task in recipe.stream]
    spans = stage_spans(recipe, logged, stages)
    ends = [0] + [max(end for (task, _), (_, end) in spans.items() if task == each) for each in tasks]
    points = [greedy_by_task(lines) for lines in lines_by_point]
    asked = {task: set(each["scores"][task]) for each in logged for task in each["scores"]}
    curves = {
        task: curve(number, task, asked[task], logged, spans, points, ends)
        for number, task in enumerate(tasks)
        if task in asked
    }
    done = len(points) == len(tasks) + 1
    return {
        "every": spec.every,
        "questions": {task: len(rows) for task, rows in asked.items()},
        "curves": curves,
        "stages": [{"task": task, "stage": stage, "start": a, "end": b} for (task, stage), (a, b) in spans.items()],
        "window": stability.WINDOW,
        "metrics": metrics(curves, ends, tasks) if done and curves else dict.fromkeys(METRICS),
        "evaluations": len(logged),
        "seconds": round(sum(each["seconds"] for each in logged), 3),
        "rollout_tokens": sum(each["rollout_tokens"] for each in logged),
    }


METRICS = ("min_acc", "wc_acc", "windowed_forgetting", "windowed_plasticity")


def metrics(curves: Mapping[str, DuringCurve], ends: Sequence[int], tasks: Sequence[str]) -> dict[str, float | None]:
    """The metrics at the end of the stream."""
    after = [
        [a for row, a in zip(each["after"], each["accuracy"], strict=True) if row > number]
        for number, task in enumerate(tasks[:-1], start=1)
        if (each := curves.get(task))
    ]
    values = [each["accuracy"] for each in curves.values()]
    present = curves.get(tasks[-1])
    return {
        "min_acc": stability.min_acc(after),
        "wc_acc": None if present is None else stability.wc_acc(present["accuracy"][-1], after),
        "windowed_forgetting": stability.windowed_forgetting(values),
        "windowed_plasticity": stability.windowed_plasticity(values),
    }


def stage_spans(
    recipe: Recipe, logged: Sequence[DuringLine], stages: Sequence[StageRecord]
) -> dict[tuple[str, str], tuple[int, int]]:
    """{(task, stage): (first, last)} optimiser steps, counted over the stream; of a stage that runs, those it will take."""
    known = {(each["task"], each["stage"]): each["max_steps"] for each in logged}
    known |= {(each["task"], each["stage"]): each["steps"] for each in stages}
    spans, start = {}, 0
    for task in recipe.stream:
        for number, stage in enumerate(task.stages):
            key = task.task, f"{number}-{stage.label}"
            spans[key] = start, start + known.get(key, 0)
            start = spans[key][1]
    return spans


def greedy_by_task(lines: Sequence[Answer]) -> TaskScores:
    """The greedy scores of the stream's tasks at one point."""
    scores: TaskScores = {}
    for line in lines:
        if line["suite"] is None and line["mode"] == "greedy":
            scores.setdefault(line["task"], {})[line["row"]] = line["score"]
    return scores


def curve(
    number: int,
    task: str,
    asked: set[str],
    logged: Sequence[DuringLine],
    spans: Mapping[tuple[str, str], tuple[int, int]],
    points: Sequence[TaskScores],
    ends: Sequence[int],
) -> DuringCurve:
    """Of task `number` (from 0): its accuracy on the rows `asked` from the point before its training on.

    `after` says for each value how many tasks had begun: k while task k is trained and at the point after it.
    """
    by_task = {name: list(lines) for name, lines in groupby(logged, lambda line: line["task"])}
    order = list(dict.fromkeys(name for name, _ in spans))
    steps, values, after = [], [], []

    def add(step: int, scores: Mapping[str, float], begun: int) -> None:
        steps.append(step)
        values.append(sum(scores[row] for row in asked) / len(asked))
        after.append(begun)

    for point in range(number, len(order) + 1):
        if point > number:
            for line in by_task.get(order[point - 1], ()):
                start, _ = spans[line["task"], line["stage"]]
                add(start + line["step"], line["scores"][task], point)
        if point < len(points):
            add(ends[point], points[point][task], point)
    return {"steps": steps, "accuracy": values, "after": after}
