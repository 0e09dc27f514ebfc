"""Gates: limits that a stream must keep, so that a pipeline can refuse a model. All compare greedy answers.

There is one for each metric, a minimum where higher is better (`learning_accuracy`), else a maximum (`forgetting`), and
`held_out_drop`, a maximum over suites of row 0 minus the last row. `rule: point` compares the value; `rule: interval` passes
only if the whole 95 % interval lies on the right side. Of several suites the interval's ends are the largest of theirs: it
passes only if each of them does. Numbers are written with three decimals, or with as many as show on which side of the limit
they lie.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from cpt.evaluation.metrics import METRICS, best_rows, drop, forgetting_by_task, learnt, parts
from cpt.evaluation.own_metrics import OwnMetric
from cpt.metric_kinds import HELD_OUT_DROP, KINDS
from cpt.records import Gate

NONE: Mapping[str, OwnMetric] = MappingProxyType({})
NAMED = 3  # tasks that a message names
ROUNDING = 1e-9  # a value that equals its limit but for rounding passes


def check_gates(gates: Mapping[str, Any], numbers: dict, own: Mapping[str, OwnMetric] = NONE) -> list[Gate]:
    """The verdicts, in the order of the recipe: `gates` maps a name to a number or an object with `limit` and `rule`.

    `own` are the metrics of the user's own, and `numbers` is what `results.numbers` returns, of a whole stream. Each verdict
    has name, limit, direction (max or min), value, interval, rule, passed, reason (who did it most, and by how much) and
    message (one line that says it all).
    """
    return [verdict(name, gate, numbers, own) for name, gate in gates.items()]


def verdict(name: str, gate: Any, numbers: dict, own: Mapping[str, OwnMetric]) -> Gate:
    limit, rule = (gate, "point") if isinstance(gate, int | float) else (gate.limit, gate.rule)
    direction = direction_of(name, own)
    value, interval, reason = measured(name, numbers, own)
    assert value is not None, f"gate {name}: its value cannot exist in this stream (`cpt check` refuses that)"
    compared = compared_number(value, interval, direction, rule)
    passed = keeps(compared, limit, direction)
    sign = {("max", True): "<=", ("max", False): ">", ("min", True): ">=", ("min", False): "<"}[direction, passed]
    what, number, bound = name, *apart(compared, limit)
    if rule == "interval":
        end = "upper" if direction == "max" else "lower"
        what = f"{name} {shown(value)} [{shown(interval[0])}, {shown(interval[1])}], {end} end"
    if not passed and keeps(value, limit, direction):
        reason += "; the value itself would pass: more questions would narrow its interval"
    message = f"{what} {number} {sign} {bound} {'passed' if passed else 'FAILED'}: {reason}"
    return {
        "name": name,
        "limit": limit,
        "direction": direction,
        "value": value,
        "interval": interval,
        "rule": rule,
        "passed": passed,
        "reason": reason,
        "message": message,
    }


def compared_number(value: float, interval: tuple[float, float], direction: str, rule: str) -> float:
    """What is held against the limit: the value, or the end of its interval that lies nearer to failing."""
    return value if rule == "point" else interval[1] if direction == "max" else interval[0]


def keeps(number: float, limit: float, direction: str) -> bool:
    return bool(number <= limit + ROUNDING if direction == "max" else number >= limit - ROUNDING)


def apart(value: float, limit: float) -> tuple[str, str]:
    """Both numbers with three decimals, or with as many as tell them apart (at most six)."""
    digits = digits_apart(value, limit)
    return shown(value, digits), shown(limit, digits)


def digits_apart(value: float, limit: float) -> int:
    """Three, or as many as the limit has, or as tell both apart; at most six."""
    least = min(6, max(3, len(f"{limit:g}".partition(".")[2])))
    if abs(value - limit) <= ROUNDING:
        return least
    return next((digits for digits in range(least, 6) if shown(value, digits) != shown(limit, digits)), 6)


def shown(value: float, digits: int = 3) -> str:
    """Without the sign of a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def direction_of(name: str, own: Mapping[str, OwnMetric] = NONE) -> str:
    """What a gate's limit is: max or min."""
    return "max" if name == HELD_OUT_DROP else (own[name].kind if name in own else KINDS[name]).direction


def measured(name: str, numbers: dict, own: Mapping[str, OwnMetric]) -> tuple:
    """(value, interval, reason) of what a gate compares with its limit."""
    if name == HELD_OUT_DROP:
        return held_out_drop(numbers)
    reason = REASONS[name](numbers) if name in REASONS else parts_reason(numbers, name, own)
    return numbers["metrics"][name], numbers["intervals"]["metrics"][name], reason


def parts_reason(numbers: dict, name: str, own: Mapping[str, OwnMetric]) -> str:
    """What a metric is the mean of, the parts that count most against it first."""
    R, tasks = np.asarray(numbers["accuracy"], float), list(numbers["questions"])
    metric = own[name] if name in own else METRICS[name]
    values = [(R[row, i] - (0 if minus is None else R[minus, i]), tasks[i]) for i, row, minus in parts(R, metric)]
    ordered = sorted(values, reverse=direction_of(name, own) == "max")
    descriptions = ", ".join(f"{task} {shown(value)}" for value, task in ordered[:NAMED])
    return descriptions or "over the whole matrix"


def forgetting(numbers: dict) -> str:
    R, tasks = numbers["accuracy"], list(numbers["questions"])
    best = best_rows(R)
    lost = [(loss, tasks[i], R[best[i]][i], R[-1][i]) for i, loss in enumerate(forgetting_by_task(R).tolist())]
    return losses(lost)


def held_out_drop(numbers: dict) -> tuple:
    lost = [(drop(scores), suite, scores[0], scores[-1]) for suite, scores in numbers["held_out"].items()]
    by_task = [
        (drop(scores), f"{suite}/{task}", scores[0], scores[-1])
        for suite, tasks in numbers["held_out_tasks"].items()
        for task, scores in tasks.items()
    ]
    ends = list(numbers["intervals"]["held_out_drop"].values())
    interval = [max(low for low, _ in ends), max(high for _, high in ends)] if ends else None
    value = max((loss for loss, *_ in lost), default=None)
    by_suite, parts = losses(lost), losses(by_task)
    reason = by_suite if by_suite == parts else f"{by_suite}; by task: {parts}"  # equal: nothing was lost
    return value, interval, reason


def learning_accuracy(numbers: dict) -> str:
    reached = sorted(zip(learnt(numbers["accuracy"]).tolist(), numbers["questions"], strict=True))
    return ", ".join(f"{task} reached {shown(score)}" for score, task in reached[:NAMED])


def losses(lost: list[tuple[float, str, float, float]]) -> str:
    """The largest losses first, as "reverse lost 0.450 (0.970 -> 0.520), ..."; those that lost nothing are not named."""
    worst = [each for each in sorted(lost, reverse=True)[:NAMED] if each[0] >= 0.0005]
    descriptions = [
        f"{name} lost {shown(loss)} ({shown(before)} -> {shown(after)})" for loss, name, before, after in worst
    ]
    return ", ".join(descriptions) or "nothing was lost"


# What a gate says of its value, where that is more than the value's parts.
REASONS: dict[str, Callable[[dict], str]] = {"forgetting": forgetting, "learning_accuracy": learning_accuracy}
