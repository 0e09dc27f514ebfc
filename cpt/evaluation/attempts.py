"""What a run does when a gate fails after a task: stop, roll the task back, or train it again another way.

Everything is read off the run directory, so a run that is killed anywhere goes on with the same decision. A task's failed
attempts are kept beside its point, as `points/01-sort.attempt-1` and `evaluations/01-sort.attempt-1.jsonl`: as many as there
are were tried. With r changes to retry, attempt 1 is the recipe's own training and attempts 2 to r + 1 are the retries; where
all of them are set aside, the point is the model of the point before.
"""

from collections.abc import Iterator
from typing import Literal

from cpt.evaluation.gates import check_gates
from cpt.evaluation.own_metrics import own_metrics
from cpt.evaluation.results import numbers
from cpt.metric_kinds import KINDS, SUITE_GATES
from cpt.recipe import Recipe, all_suites
from cpt.recipe.evaluation import Retry
from cpt.recipe.merge import Merge
from cpt.records import Answer, Attempt, Gate
from cpt.rundir import Point, RunDir, points_of

Decision = Literal["retry", "rollback", "stop"]


def decide(rundir: RunDir, recipe: Recipe, point: Point) -> tuple[Decision | None, list[str]]:
    """What is to be done about a point that is committed and evaluated (None: nothing), and the gates that failed."""
    plan = recipe.evaluation.on_failure
    if plan is None or point.task is None or is_rolled_back(rundir, recipe, point):
        return None, []
    before = points_of(recipe)[point.index - 1]
    known = failed_gates(rundir, recipe, before) if before.task else []  # this task did not break them
    failed = [name for name in failed_gates(rundir, recipe, point) if name not in known]
    if not failed:
        return None, []
    return ("retry" if tried(rundir, point) < len(plan.retry) else plan.then), failed


def failed_gates(rundir: RunDir, recipe: Recipe, point: Point, lines: list[Answer] | None = None) -> list[str]:
    """The critical gates that the stream would fail if it ended with this point; `lines` are its answers, if not as kept."""
    gates, _ = checked_after(rundir, recipe, point, lines)
    return [gate["name"] for gate in gates if gate["tier"] == "critical" and gate["outcome"] == "failed"]


def checked_after(
    rundir: RunDir, recipe: Recipe, point: Point, lines: list[Answer] | None = None
) -> tuple[list[Gate], dict]:
    """The gates that can have a value after this point, and the numbers they compare: of the tasks trained so far."""
    points = points_of(recipe)[: point.index + 1]
    tasks = [each.task for each in points[1:]]
    read = {each.name: rundir.read_evaluation(each)[0] for each in points[: len(points) - (lines is not None)]}
    if lines is not None:
        read[point.name] = lines
    own = own_metrics(recipe)
    computed = numbers(
        tasks,
        list(all_suites(recipe)),
        [each.name for each in points],
        {name: [line for line in each if line["suite"] or line["task"] in tasks] for name, each in read.items()},
        True,
        own=own,
    )
    gates = {name: gate for name, gate in recipe.evaluation.gates.items() if has_value(name, tasks)}
    return check_gates(gates, computed, own), computed


def has_value(name: str, tasks: list[str]) -> bool:
    """Whether a gate compares anything in a stream that ended after these tasks."""
    head, _, part = name.partition("/")
    if head in SUITE_GATES:
        return True
    if part:
        return part in (tasks[:-1] if head == "forgetting" else tasks)
    return name not in KINDS or len(tasks) >= KINDS[name].least_tasks


# -- attempts ------------------------------------------------------------------------------------------------------------


def attempt(point: Point, number: int) -> Point:
    """The place of an attempt that was set aside, counted from 1."""
    return Point(point.index, f"{point.task}.attempt-{number}")


def tried(rundir: RunDir, point: Point) -> int:
    """How many attempts at the point were set aside."""
    return sum(1 for _ in set_aside(rundir, point))


def set_aside(rundir: RunDir, point: Point) -> Iterator[Point]:
    number = 1
    while rundir.point(place := attempt(point, number)).exists():
        yield place
        number += 1


def put_aside(rundir: RunDir, point: Point) -> None:
    """Keep the point as its next attempt; it is then neither trained nor evaluated."""
    rundir.move(point, attempt(point, tried(rundir, point) + 1))


def change_of(rundir: RunDir, recipe: Recipe, point: Point) -> Retry | None:
    """What the attempt under way changes; None for the recipe's own training."""
    plan, number = recipe.evaluation.on_failure, tried(rundir, point)
    return plan.retry[number - 1] if plan is not None and 0 < number <= len(plan.retry) else None


def is_rolled_back(rundir: RunDir, recipe: Recipe, point: Point) -> bool:
    """Whether all attempts at the point failed, and it is the model of the point before."""
    plan = recipe.evaluation.on_failure
    return plan is not None and point.task is not None and tried(rundir, point) > len(plan.retry)


def roll_back(rundir: RunDir, recipe: Recipe, point: Point) -> None:
    """Commit the model of the point before as this one: no second copy on disk, no stage, the strategies as they were."""
    before = points_of(recipe)[point.index - 1]
    served = rundir.served(before)
    states = rundir.states(before)
    rundir.commit(point, rundir.model(before), [], states, None if served == rundir.model(before) else served)


def changed(spec, change: Retry | None):
    """A stage as an attempt trains it."""
    if change is None or change.learning_rate is None:
        return spec
    rate = spec.value("learning_rate") * change.learning_rate
    return spec.model_copy(update={"args": {**spec.args, "learning_rate": rate}})


def merge_of(change: Retry | None) -> Merge | None:
    """The merge that an attempt makes after the recipe's strategies; None where it makes none."""
    if change is None or change.merge is None:
        return None
    return Merge(kind="merge", method="wise", weight=change.merge)


# -- what is kept --------------------------------------------------------------------------------------------------------


def records(rundir: RunDir, recipe: Recipe, points: list[Point]) -> list[Attempt]:
    """The attempts that were set aside, in the order in which they were made."""
    made: list[Attempt] = []
    for point in points:
        for number, place in enumerate(set_aside(rundir, point) if point.task else (), start=1):
            lines, cost = rundir.read_evaluation(place)
            stages = rundir.stages(place)
            _, computed = checked_after(rundir, recipe, point, lines)
            retry = recipe.evaluation.on_failure.retry if recipe.evaluation.on_failure else ()
            made.append(
                {
                    "point": point.name,
                    "attempt": number,
                    "change": describe(retry[number - 2]) if 1 < number <= len(retry) + 1 else "as the recipe says",
                    "failed": failed_gates(rundir, recipe, point, lines),
                    "accuracy": dict(zip(computed["questions"], computed["accuracy"][-1], strict=True)),
                    "seconds": round(cost["seconds"] + sum(each["seconds"] for each in stages), 3),
                    "train_tokens": sum(each.get("train_tokens", 0) for each in stages),
                    "rollout_tokens": cost["rollout_tokens"] + sum(each["rollout_tokens"] for each in stages),
                }
            )
    return made


def describe(change: Retry) -> str:
    """`learning rate x 0.5`, `merged, the old model's share 0.5`."""
    if change.learning_rate is not None:
        return f"learning rate x {change.learning_rate:g}"
    return f"merged, the old model's share {change.merge:g}"


def sentence(made: list[Attempt], rolled_back: list[str], stopped: str | None) -> str:
    """What the verdict says of it; empty where nothing was tried again."""
    parts = []
    by_point: dict[str, list[Attempt]] = {}
    for each in made:
        by_point.setdefault(each["point"], []).append(each)
    for point, tries in by_point.items():
        why = ", ".join(dict.fromkeys(name for each in tries for name in each["failed"])) or "a gate"
        if point in rolled_back:
            parts.append(
                f"{point} was rolled back after {len(tries)} attempt(s) ({why} failed): its training is not in the model."
            )
        elif point != stopped:
            parts.append(f"{point} took {len(tries) + 1} attempts ({why} failed before).")
    return " ".join(parts)
