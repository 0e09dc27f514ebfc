"""What results.json says of lm-eval's tasks and of likelihoods, from the evaluated answers alone."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cpt.records import Answer, Benchmark, Flips, Likelihoods

LARGEST = 700.0  # the exponent up to which a perplexity is a number


def score_kinds(lines: Sequence[Answer]) -> dict[str, str]:
    """{task, or SUITE/TASK: "likelihood"} of the tasks whose score is no accuracy."""
    return {name_of(line): "likelihood" for line in lines if counts(line) and is_likelihood(line)}


def is_likelihood(line: Answer) -> bool:
    return line.get("metric") == "likelihood"


def counts(line: Answer) -> bool:
    """Whether the line's score is in the matrix, or in a held-out suite's score."""
    return line["mode"] == "greedy"


def name_of(line: Answer) -> str:
    return line["task"] if line["suite"] is None else f"{line['suite']}/{line['task']}"


def likelihoods(points: Sequence[str], lines_by_point: Mapping[str, Sequence[Answer]]) -> dict[str, Likelihoods]:
    """{task, or SUITE/TASK: the likelihood of its demonstrations at each point}; what lm-eval measures is not among them."""
    made: dict[str, Likelihoods] = {}
    for point in points:
        rows: dict[str, list[Answer]] = {}
        for line in lines_by_point[point]:
            if line.get("kind") == "likelihood":
                rows.setdefault(name_of(line), []).append(line)
        for name, mine in rows.items():
            tokens = sum(line["tokens"] for line in mine)
            logprob = math.fsum(line["log_likelihoods"][0] for line in mine) / tokens
            record = made.setdefault(
                name, {"rows": len(mine), "tokens": tokens, "likelihood": [], "logprob": [], "perplexity": []}
            )
            record["likelihood"].append(float(np.mean([line["score"] for line in mine])))
            record["logprob"].append(logprob)
            record["perplexity"].append(math.exp(min(LARGEST, -logprob)))
    return made


def benchmarks(
    points: Sequence[str], lines_by_point: Mapping[str, Sequence[Answer]]
) -> dict[str, dict[str, Benchmark]]:
    """{suite: {task: what lm-eval computed of it at each point}}."""
    tasks = dict.fromkeys(
        (line["suite"], line["task"]) for line in lines_by_point[points[0]] if line.get("kind") == "lm_eval"
    )
    made: dict[str, dict[str, Benchmark]] = {}
    for suite, task in tasks:
        rows = [
            {line["row"]: line for line in lines_by_point[point] if (line["suite"], line["task"]) == (suite, task)}
            for point in points
        ]
        made.setdefault(suite, {})[task] = benchmark(rows)
    return made


def benchmark(rows: Sequence[Mapping[str, Answer]]) -> Benchmark:
    """Of one task; `rows` are the questions of each point by their ids."""
    first = next(iter(rows[0].values()))
    names = [name for name in first["metrics"] if all(name in line["metrics"] for row in rows for line in row.values())]
    choices = [line["choices"] for line in rows[0].values() if "choices" in line]
    scores = np.array([[row[each]["score"] for each in rows[0]] for row in rows])
    binary = bool(np.isin(scores, (0.0, 1.0)).all())
    return {
        "metric": first["metric"],
        "questions": len(rows[0]),
        "chance": float(np.mean([1 / number for number in choices])) if choices else None,
        "metrics": {name: [over_questions(name, list(row.values())) for row in rows] for name in names},
        "flips": [flips(scores[0], each, choices) for each in scores] if binary else [],
    }


def over_questions(metric: str, lines: Sequence[Answer]) -> float:
    """A metric over all questions: their mean; bits per byte of all bytes, as lm-eval computes it."""
    if metric == "bits_per_byte":
        total = math.fsum(line["log_likelihoods"][0] for line in lines)
        return -total / sum(line["bytes"] for line in lines) / math.log(2)
    return float(np.mean([line["metrics"][metric] for line in lines]))


def flips(before: np.ndarray, after: np.ndarray, choices: Sequence[int]) -> Flips:
    """The shares of questions that were right before and are wrong after (lost), and the other way round (gained).

    Whoever knows an answer or else guesses among k choices is wrong in (k - 1) / k of all guesses; so a share
    (1 - accuracy) k / (k - 1) was guessed. If guesses before and after are independent, (1 - a) (1 - b) / (k - 1) of all
    questions are lost by guessing alone, and as many gained (the idea is of 2510.17776). `*_beyond_chance` are without
    those, at least 0; None where the number of choices is not known. Where questions have different numbers of choices,
    k is the inverse of their mean chance.
    """
    lost, gained = float(((before == 1) & (after == 0)).mean()), float(((before == 0) & (after == 1)).mean())
    made: Flips = {"lost": lost, "gained": gained, "lost_beyond_chance": None, "gained_beyond_chance": None}
    if len(choices) == len(before) and min(choices) > 1:
        k = 1 / float(np.mean([1 / number for number in choices]))
        by_chance = (1 - before.mean()) * (1 - after.mean()) / (k - 1)
        made["lost_beyond_chance"] = max(0.0, lost - float(by_chance))
        made["gained_beyond_chance"] = max(0.0, gained - float(by_chance))
    return made
