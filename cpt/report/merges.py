"""What strategies merged after tasks or stages: the trade-off between old and new tasks, by value, where one was searched."""

from cpt.records import Candidate, MergeRecord, Results, StageRecord
from cpt.report.charts import columns_of, trade_off_chart
from cpt.report.formatting import score


def merges(results: Results) -> dict | None:
    """Charts and table rows of the searches, and a line for each merge; None where nothing was merged."""
    done = [(stage, merge) for stage in results["stages"] for merge in stage.get("merges", ())]
    searched = [(stage, merge) for stage, merge in done if merge["curve"]]
    if not done:
        return None
    columns = columns_of(len(searched))
    return {
        "each": "stage" if all(merge.get("after") == "stage" for _, merge in done) else "task",
        "lines": [f"{place_of(stage, merge)} {merge['strategy']}: {merge['told']}" for stage, merge in done],
        "charts": [chart(stage, merge, columns) for stage, merge in searched],
        "rows": [row(stage, merge, each) for stage, merge in searched for each in merge["curve"]],
        "columns": columns,
    }


def place_of(stage: StageRecord, merge: MergeRecord) -> str:
    """The task that the merge was made after, or the stage of it."""
    return f"{stage['task']} {stage['stage']}" if merge.get("after") == "stage" else stage["task"]


def chart(stage: StageRecord, merge: MergeRecord, columns: int) -> dict:
    """Of one search. The unmerged model is weight 0; on an axis of scales it has no place."""
    task, place = stage["task"], place_of(stage, merge)
    curve = [each for each in merge["curve"] if each["value"] is not None or merge["option"] == "weight"]
    curve.sort(key=lambda each: each["value"] or 0)
    xs = [each["value"] or 0 for each in curve]
    old = [name for name in curve[0]["accuracy"] if name != task]
    svg = trade_off_chart(
        f"after {place}, by {merge['option']}",
        xs,
        new=[each["accuracy"][task] for each in curve],
        old=[average(each["accuracy"], old) for each in curve] if old else None,
        each_old=[[each["accuracy"][name] for each in curve] for name in old] if len(old) > 1 else (),
        taken=next((x for x, each in zip(xs, curve, strict=True) if each["taken"]), None),
        columns=columns,
    )
    best = next(each for each in merge["curve"] if each["taken"])
    return {"title": f"after {place}", "value": f"{taken_word(merge, best)}: {score(best['mean'])}", "svg": svg}


def row(stage: StageRecord, merge: MergeRecord, each: Candidate) -> dict:
    task = stage["task"]
    old = [name for name in each["accuracy"] if name != task]
    return {
        "task": place_of(stage, merge),
        "strategy": merge["strategy"],
        "value": taken_word(merge, each),
        "old": score(average(each["accuracy"], old) if old else None),
        "new": score(each["accuracy"][task]),
        "mean": score(each["mean"]),
        "breaks": ", ".join(name.replace("_", " ") for name in each["breaks"]),
        "taken": each["taken"],
    }


def taken_word(merge: dict, each: dict) -> str:
    return "unmerged" if each["value"] is None else f"{merge['option']} {each['value']:g}"


def average(accuracy: dict[str, float], names: list[str]) -> float:
    return sum(accuracy[name] for name in names) / len(names)
