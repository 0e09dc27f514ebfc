"""The noise floor: how much the score of the untouched model varies when it is evaluated again.

The arithmetic of an answer depends on the batch that it is made in, so on GPUs, and in bfloat16 everywhere, the same weights
do not give the same answers twice. The base is evaluated again in other batches: another order of the questions, and smaller
batches (and with them other contents of the prefix cache). A difference within the spread of its scores is no finding, and no
gate decides on it. On the CPU in float32 it is 0; it is measured all the same.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cpt.files import write_json
from cpt.records import Answer, NoiseFloor, NoiseRecord, Spent, Spread, wrong

NAME = "noise_floor.json"
Place = tuple[str | None, str]  # suite (None for the stream) and task


def read(folder: Path, base: str) -> NoiseRecord | None:
    """What was measured in the run in `folder`; None where nothing was, or of other answers (`base` is their hash)."""
    try:
        record = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return None if wrong(record, NoiseRecord) or record["base"] != base else record


def measure(
    folder: Path,
    base: str,
    first: Sequence[Answer],
    repeats: int,
    again: Callable[[int], tuple[list[Answer], Spent]],
    write: bool,
) -> NoiseRecord:
    """Evaluate the base `repeats` times by `again(number)`, numbers from 1, compare with its `first` answers, and keep that.

    On all ranks; the one with `write` writes.
    """
    rounds = [again(number) for number in range(1, repeats + 1)]
    record: NoiseRecord = {
        "base": base,
        "seconds": round(sum(cost["seconds"] for _, cost in rounds), 3),
        "rollout_tokens": sum(cost["rollout_tokens"] for _, cost in rounds),
        "floor": compared(first, [lines for lines, _ in rounds]),
        "changed": changed(first, [lines for lines, _ in rounds]),
    }
    if write:
        write_json(folder / NAME, record)
    return record


def compared(first: Sequence[Answer], repeats: Sequence[Sequence[Answer]]) -> NoiseFloor:
    """The spread of each task and suite, over the greedy answers."""
    rounds = [by_place(first), *map(by_place, repeats)]
    suites = dict.fromkeys(suite for suite, _ in rounds[0] if suite is not None)
    texts = [texts_of(lines) for lines in (first, *repeats)]
    return {
        "repeats": len(repeats),
        "answers": len(texts[0]) * len(repeats),
        "changed": sum(text != texts[0][key] for each in texts[1:] for key, text in each.items()),
        "tasks": {task: spread([each[None, task] for each in rounds]) for suite, task in rounds[0] if suite is None},
        "suites": {suite: spread([of_suite(each, suite) for each in rounds]) for suite in suites},
    }


def spread(scores: Sequence[np.ndarray]) -> Spread:
    """Of the scores of one task or suite, (n) of the first evaluation and of each repeat, in the same order."""
    first, *repeats = scores
    return {
        "questions": len(first),
        "changed": int(sum((each != first).sum() for each in repeats)),
        "largest_difference": float(max((abs(each.mean() - first.mean()) for each in repeats), default=0.0)),
    }


def by_place(lines: Sequence[Answer]) -> dict[Place, np.ndarray]:
    rows: dict[Place, dict[str, float]] = {}
    for line in greedy(lines):
        rows.setdefault((line["suite"], line["task"]), {})[line["row"]] = line["score"]
    return {place: np.array([scores[row] for row in sorted(scores)]) for place, scores in rows.items()}


def of_suite(scores: dict[Place, np.ndarray], suite: str) -> np.ndarray:
    return np.concatenate([each for (name, _), each in sorted(scores.items(), key=str) if name == suite])


def greedy(lines: Sequence[Answer]) -> list[Answer]:
    return [line for line in lines if line["mode"] == "greedy"]


def texts_of(lines: Sequence[Answer]) -> dict[tuple, str]:
    return {(line["suite"], line["task"], line["row"]): line["completion"] for line in greedy(lines)}


def changed(first: Sequence[Answer], repeats: Sequence[Sequence[Answer]]) -> list[dict]:
    """The answers whose text changed, with the repeat (from 1) in which they did."""
    before = texts_of(first)
    return [
        {key: line[key] for key in ("suite", "task", "row", "completion", "score")} | {"repeat": number}
        for number, lines in enumerate(repeats, start=1)
        for line in greedy(lines)
        if line["completion"] != before[line["suite"], line["task"], line["row"]]
    ]


def summary(floor: NoiseFloor) -> str:
    """In one sentence."""
    largest = max(
        (each["largest_difference"] for each in (*floor["tasks"].values(), *floor["suites"].values())), default=0.0
    )
    return (
        f"noise floor: the base was evaluated {floor['repeats']} more time(s) in other batches, and {floor['changed']:,} of "
        f"{floor['answers']:,} answers changed (largest difference of a score: {largest:.3f})"
    )
