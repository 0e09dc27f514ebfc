"""Gates: limits that a stream must keep, so that a pipeline can refuse a model. All are judged on greedy answers.

`forgetting` is a maximum on the metric of that name, `held_out_drop` a maximum over suites of row 0 minus the last
row, `learning_accuracy` a minimum. `rule: point` compares the value; `rule: interval` passes only if the whole 95 %
interval lies on the right side. Of several suites the interval's ends are the largest of theirs: it passes only if
each of them does.
"""

from collections.abc import Callable, Mapping
from typing import Any

from cpt.evaluation.metrics import best_rows, drop, forgetting_by_task, learnt

SHOWN = 3  # tasks that a message names
ROUNDING = 1e-9  # a value that equals its limit but for rounding passes


def judge(gates: Mapping[str, Any], found: dict) -> list[dict]:
    """The verdicts, in the order of the recipe: `gates` maps a name to a number or an object with `limit` and `rule`.

    `found` is what `results.numbers` returns, of a whole stream. Each verdict has name, limit, direction (max or min),
    value, interval, rule, passed, reason (who did it most, and by how much) and message (one line that says it all).
    """
    return [verdict(name, gate, found) for name, gate in gates.items()]


def verdict(name: str, gate: Any, found: dict) -> dict:
    limit, rule = (gate, "point") if isinstance(gate, int | float) else (gate.limit, gate.rule)
    direction, measure = GATES[name]
    value, interval, reason = measure(found)
    assert value is not None, f"gate {name}: its value cannot exist in this stream (`cpt check` refuses that)"
    judged = value if rule == "point" else interval[1] if direction == "max" else interval[0]
    passed = judged <= limit + ROUNDING if direction == "max" else judged >= limit - ROUNDING
    sign = {("max", True): "<=", ("max", False): ">", ("min", True): ">=", ("min", False): "<"}[direction, passed]
    what, number, bound = name, *apart(judged, limit)
    if rule == "interval":
        end = "upper" if direction == "max" else "lower"
        what = f"{name} {value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}], {end} end"
    message = f"{what} {number} {sign} {bound} {'passed' if passed else 'FAILED'}: {reason}"
    return {
        "name": name,
        "limit": limit,
        "direction": direction,
        "value": value,
        "interval": interval,
        "rule": rule,
        "passed": bool(passed),
        "reason": reason,
        "message": message,
    }


def apart(value: float, limit: float) -> tuple[str, str]:
    """Both numbers with two decimals, or as many as tell them apart (at most six)."""
    for digits in range(2, 7):
        shown = f"{value:.{digits}f}", f"{limit:.{digits}f}"
        if shown[0] != shown[1] or abs(value - limit) <= ROUNDING:
            break
    return shown


def forgetting(found: dict) -> tuple:
    R, tasks = found["accuracy"], list(found["questions"])
    best = best_rows(R)
    lost = [(loss, tasks[i], R[best[i]][i], R[-1][i]) for i, loss in enumerate(forgetting_by_task(R).tolist())]
    return found["metrics"]["forgetting"], found["intervals"]["metrics"]["forgetting"], losses(lost)


def held_out_drop(found: dict) -> tuple:
    lost = [(drop(scores), suite, scores[0], scores[-1]) for suite, scores in found["held_out"].items()]
    by_task = [
        (drop(scores), f"{suite}/{task}", scores[0], scores[-1])
        for suite, tasks in found["held_out_tasks"].items()
        for task, scores in tasks.items()
    ]
    ends = list(found["intervals"]["held_out_drop"].values())
    interval = [max(low for low, _ in ends), max(high for _, high in ends)] if ends else None
    value = max((loss for loss, *_ in lost), default=None)
    return value, interval, f"{losses(lost)}; by task: {losses(by_task)}"


def learning_accuracy(found: dict) -> tuple:
    reached = sorted(zip(learnt(found["accuracy"]).tolist(), found["questions"], strict=True))
    reason = ", ".join(f"{task} reached {score:.2f}" for score, task in reached[:SHOWN])
    return found["metrics"]["learning_accuracy"], found["intervals"]["metrics"]["learning_accuracy"], reason


def losses(lost: list[tuple[float, str, float, float]]) -> str:
    """The largest losses first, as "reverse lost 0.45 (0.97 -> 0.52), ..."; those that lost nothing are not named."""
    worst = [each for each in sorted(lost, reverse=True)[:SHOWN] if each[0] >= 0.005]
    told = [f"{name} lost {loss:.2f} ({before:.2f} -> {after:.2f})" for loss, name, before, after in worst]
    return ", ".join(told) or "nothing was lost"


GATES: dict[str, tuple[str, Callable[[dict], tuple]]] = {  # direction; found -> (value, interval, reason)
    "forgetting": ("max", forgetting),
    "held_out_drop": ("max", held_out_drop),
    "learning_accuracy": ("min", learning_accuracy),
}
