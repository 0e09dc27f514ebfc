"""Gates: limits that a stream must keep, so that a pipeline can refuse a model. All compare greedy answers.

There is one for each metric, a minimum where higher is better (`learning_accuracy`), else a maximum (`forgetting`);
`held_out_drop`, a maximum over suites of row 0 minus the last row; and those on one task or suite, as `forgetting/sort` and
`held_out_drop/general`. `rule` says what is compared with the limit (`cpt.evaluation.limits`), `tier` what follows from it
(`cpt.evaluation.verdict`). Of several suites the interval's ends are the largest of theirs: it passes only if each of them
does.
Numbers are written with three decimals, or with as many as show on which side of the limit they lie.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from cpt.evaluation.limits import WHOLE, Outcome, apart, bound, compared_number, keeps, outcome, questions_needed, shown
from cpt.evaluation.metrics import METRICS, best_rows, drop, forgetting_by_task, learnt, parts
from cpt.evaluation.own_metrics import OwnMetric
from cpt.metric_kinds import HELD_OUT_DROP, SUITE_GATES, direction_of_gate
from cpt.records import Gate

NONE: Mapping[str, OwnMetric] = MappingProxyType({})
NAMED = 3  # tasks that a message names
Measured = tuple[float | None, tuple[float, float] | None, str]  # value, interval, reason


def check_gates(gates: Mapping[str, Any], numbers: dict, own: Mapping[str, OwnMetric] = NONE) -> list[Gate]:
    """What became of each gate, in the order of the recipe: `gates` maps a name to a number or a `Gate` of the recipe.

    `own` are the metrics of the user's own, and `numbers` is what `results.numbers` returns, of a whole stream (and
    `noise_floor`, where it was measured). The record of each is in docs/run-directory.md.
    """
    return [checked(name, gate, numbers, own) for name, gate in gates.items()]


def checked(name: str, gate: Any, numbers: dict, own: Mapping[str, OwnMetric]) -> Gate:
    limit, rule, tier = (gate, "point", "critical") if isinstance(gate, int | float) else settings(gate)
    direction = direction_of(name, own)
    limit = bound(limit, rule, direction)
    value, interval, reason = measured(name, numbers, own)
    noise = noise_of(name, numbers)
    if value is None or (rule in WHOLE and interval is None):
        result: Outcome = "missing"
        message = f"{name}: not certified: {reason}"
        needed = None
    else:
        result = outcome(value, interval, limit, direction, rule, noise)
        needed = None
        if result == "inconclusive" and rule in WHOLE:
            needed = questions_needed(value, interval, limit, questions_of(name, numbers))
        reason += advice(result, rule, needed, name, numbers, noise)
        message = line(name, value, interval, limit, direction, rule, result, reason)
    record: Gate = {
        "name": name,
        "limit": limit,
        "direction": direction,
        "value": value,
        "interval": interval,
        "rule": rule,
        "tier": tier,
        "passed": result == "passed",
        "outcome": result,
        "noise": noise,
        "reason": reason,
        "message": message,
    }
    if needed is not None:
        record["questions_needed"] = needed
    return record


def settings(gate: Any) -> tuple[float, str, str]:
    return gate.limit, gate.rule, getattr(gate, "tier", "critical")


def line(name: str, value, interval, limit: float, direction: str, rule: str, result: Outcome, reason: str) -> str:
    """The line that the run prints."""
    compared = compared_number(value, interval, direction, rule)
    kept = keeps(compared, limit, direction)
    sign = {("max", True): "<=", ("max", False): ">", ("min", True): ">=", ("min", False): "<"}[direction, kept]
    what, number, bound = name, *apart(compared, limit)
    if rule in WHOLE:
        end = "upper" if direction == "max" else "lower"
        what = f"{name} {shown(value)} [{shown(interval[0])}, {shown(interval[1])}], {end} end"
    ending = {"passed": "passed", "failed": "FAILED", "inconclusive": "INCONCLUSIVE"}[result]
    return f"{what} {number} {sign} {bound} {ending}: {reason}"


def advice(result: Outcome, rule: str, needed: int | None, name: str, numbers: dict, noise: float) -> str:
    """What would tell, where the data cannot."""
    if result != "inconclusive":
        return ""
    if rule == "point":
        return f"; it lies within the noise floor ({shown(noise)}) of its limit: evaluate with more questions"
    if needed is None:
        return "; the value is the limit itself: no number of questions would tell"
    unit = "the suite" if name.startswith((HELD_OUT_DROP, "held_out")) else "a task"
    have = questions_of(name, numbers)
    return f"; the interval holds the limit: about {needed:,} questions {unit} would tell if the value stays ({have:,} now)"


def questions_of(name: str, numbers: dict) -> int:
    """The fewest questions of what a gate compares."""
    head, _, part = name.partition("/")
    counts = numbers["held_out_questions"] if head in SUITE_GATES else numbers["questions"]
    return counts[part] if part in counts else min(counts.values())


def noise_of(name: str, numbers: dict) -> float:
    """The largest difference that evaluating the same weights again made in what a gate compares; 0 if that was not done."""
    floor = numbers.get("noise_floor")
    if not floor:
        return 0.0
    head, _, part = name.partition("/")
    spreads = floor["suites" if head in SUITE_GATES else "tasks"]
    chosen = [spreads[part]] if part in spreads else list(spreads.values())
    return max((each["largest_difference"] for each in chosen), default=0.0)


def direction_of(name: str, own: Mapping[str, OwnMetric] = NONE) -> str:
    """What a gate's limit is: max or min."""
    return own[name].kind.direction if name in own else direction_of_gate(name)


def measured(name: str, numbers: dict, own: Mapping[str, OwnMetric]) -> Measured:
    """What a gate compares with its limit; a value that is None is missing, and the reason says why."""
    head, _, part = name.partition("/")
    if part:
        return of_suite(head, part, numbers) if head in SUITE_GATES else of_task(head, part, numbers)
    if name == HELD_OUT_DROP:
        return held_out_drop(numbers)
    if (value := numbers["metrics"].get(name)) is None:
        return None, None, "it has no value in this stream"
    reason = REASONS[name](numbers) if name in REASONS else parts_reason(numbers, name, own)
    if name == "forgetting" and (bias := numbers.get("selection_bias", {}).get(name, 0.0)) >= 0.0005:
        reason += f"; choosing each task's best row raises it by about {shown(bias)}"
    return value, numbers["intervals"]["metrics"][name], reason


def of_task(head: str, task: str, numbers: dict) -> Measured:
    """A gate on one task, one of TASK_GATES."""
    names, R, ends = list(numbers["questions"]), numbers["accuracy"], numbers["intervals"]
    if task not in names:
        return None, None, f"{task} was not evaluated"
    i = names.index(task)
    first, own, last = R[0][i], R[i + 1][i], R[-1][i]
    if head == "accuracy":
        return last, ends["accuracy"][-1][i], f"{task} ends at {shown(last)}"
    if head == "learning_accuracy":
        return own, ends["accuracy"][i + 1][i], f"{task} reached {shown(own)}"
    if head == "below_base":
        reason = f"{task} {shown(first)} -> {shown(last)}"
        return first - last, ends["below_base_by_task"][task], reason
    if i == len(names) - 1:
        return None, None, f"no task came after {task}"
    lost, best = float(forgetting_by_task(R)[i]), R[best_rows(R)[i]][i]
    return lost, ends["forgetting_by_task"][task], losses([(lost, task, best, last)])


def of_suite(head: str, suite: str, numbers: dict) -> Measured:
    """A gate on one suite, one of SUITE_GATES."""
    if suite not in numbers["held_out"]:
        return None, None, f"the suite {suite} was not evaluated"
    scores, ends = numbers["held_out"][suite], numbers["intervals"]
    if head == "held_out":
        return scores[-1], ends["held_out"][suite][-1], f"{suite} ends at {shown(scores[-1])}"
    lost = drop(scores)
    return lost, ends["held_out_drop"][suite], losses([(lost, suite, scores[0], scores[-1])])


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


def below_base(numbers: dict) -> str:
    """The tasks that end below the untouched model, or the one that ends least above it."""
    R, tasks = numbers["accuracy"], list(numbers["questions"])
    lost = [(R[0][i] - R[-1][i], task, R[0][i], R[-1][i]) for i, task in enumerate(tasks)]
    if max(lost)[0] < 0.0005:
        return f"every task ends at or above the untouched model; nearest: {max(lost)[1]}"
    return losses(lost)


def held_out_drop(numbers: dict) -> Measured:
    if not numbers["held_out"]:
        return None, None, "no suite was evaluated"
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
REASONS: dict[str, Callable[[dict], str]] = {
    "forgetting": forgetting,
    "worst_forgetting": forgetting,
    "below_base": below_base,
    "learning_accuracy": learning_accuracy,
}
