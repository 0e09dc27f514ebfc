"""What a task's answers look like, whatever they score: how they are distributed, cut off, or name no expected answer at all.

A score hides this: of a yes-no task, all "yes" before a task and all "no" after it are both .500 and "no change".
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

FEW = 10  # expected answers at most, for a task to be one of few answers
LEAST = 10  # questions, for anything to be said of their distribution
NEARLY_ALL = 0.95  # a share of answers that are alike
SPREAD = 0.8  # the most that one expected answer may have for that to be odd
OTHER = "(other)"


def greedy(lines: Sequence[dict], suite: str | None, task: str) -> list[dict]:
    """The greedy answers to a task's questions; none of a task that is measured by a likelihood."""
    place = (suite, task, "greedy")
    return [
        line
        for line in lines
        if (line["suite"], line["task"], line["mode"]) == place and line.get("kind") != "likelihood"
    ]


def expected(lines: Sequence[dict]) -> Counter[str]:
    """How often each answer is expected, of the lines that have one as text."""
    return Counter(str(line["answer"]) for line in lines if isinstance(line["answer"], str | int | float))


def few(lines: Sequence[dict]) -> list[str]:
    """The expected answers of a task that has few of them, the most frequent first; none for any other task."""
    wanted = expected(lines)
    is_few = 2 <= len(wanted) <= FEW and sum(wanted.values()) == len(lines) >= max(LEAST, 2 * len(wanted))
    return [answer for answer, _ in wanted.most_common()] if is_few else []


def named(line: dict, labels: Sequence[str]) -> str:
    """Which of the expected answers a completion gives: its own if it is right, else the only one that it names."""
    if line["score"] >= 1:
        return str(line["answer"])
    text = given(line)
    for label in labels:
        if text == plain(label):
            return label
    found = [label for label in labels if re.search(rf"(?<!\w){re.escape(plain(label))}(?!\w)", text)]
    return found[0] if len(found) == 1 else OTHER


def given(line: dict) -> str:
    """The answer as it is compared: of a choice by likelihoods its number, else the text without what stands around it."""
    return f"choice {line['chosen']}" if "chosen" in line else plain(line["completion"])


def plain(text: Any) -> str:
    return " ".join(str(text).split()).strip(" .!()\"'").casefold()


def distribution(lines: Sequence[dict], labels: Sequence[str]) -> dict[str, int]:
    """How many answers give each of the labels, and how many none of them (OTHER)."""
    counts = Counter(named(line, labels) for line in lines)
    return {label: counts.get(label, 0) for label in (*labels, OTHER)}


def confusion(lines: Sequence[dict], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """{expected answer: {given answer: questions}}."""
    return {want: distribution([line for line in lines if str(line["answer"]) == want], labels) for want in labels}


def chance(lines: Sequence[dict]) -> tuple[float, float] | None:
    """What a guess scores: any answer of few alike, and always the most frequent one; None for a task of many answers."""
    if not (labels := few(lines)):
        return None
    return 1 / len(labels), max(expected(lines).values()) / len(lines)


def one_answer(lines: Sequence[dict]) -> tuple[str, int] | None:
    """The answer that nearly all questions are given though they expect others, and how often; None where there is none."""
    if len(lines) < LEAST:
        return None
    wanted = expected(lines)
    if wanted and max(wanted.values()) > SPREAD * len(lines):
        return None
    labels = few(lines)
    counts = Counter(named(line, labels) if labels else given(line) for line in lines)
    answer, times = counts.most_common(1)[0]
    return (answer, times) if times >= NEARLY_ALL * len(lines) and answer != OTHER else None


def warnings(lines: Sequence[dict]) -> list[str]:
    """A line for each task of a point in which one answer stands for nearly all."""
    said = []
    for suite, task in dict.fromkeys((line["suite"], line["task"]) for line in lines):
        mine = greedy(lines, suite, task)
        if (found := one_answer(mine)) is not None:
            name = task if suite is None else f"{suite}/{task}"
            answer = found[0] if len(found[0]) <= 40 else f"{found[0][:37]}..."
            said.append(f"{name}: {found[1]} of {len(mine)} answers are {answer!r}, whatever is asked")
    return said
