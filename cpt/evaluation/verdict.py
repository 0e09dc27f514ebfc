"""The verdict on a whole stream: ship, do not ship, or inconclusive, and the worst task whatever passed.

Gates have three tiers. A `critical` one that fails forbids to ship; one that the data cannot decide, or that has no value,
leaves the model uncertified. A `supporting` one that fails is named beside the verdict. A `tracked` one is only shown.
"""

from collections.abc import Sequence

from cpt.evaluation.limits import shown
from cpt.evaluation.metrics import forgetting_by_task
from cpt.records import Gate, GateChange, Verdict, WorstTask

LOSS = 0.0005  # a smaller one is written as 0.000


def verdict(gates: Sequence[Gate], numbers: dict, history: Sequence[GateChange] = ()) -> Verdict:
    """Of a complete stream. `numbers` is what `results.numbers` returns, and `history` how limits were changed."""
    critical = [gate for gate in gates if gate["tier"] == "critical"]
    failed = [gate["name"] for gate in critical if gate["outcome"] == "failed"]
    unclear = [gate["name"] for gate in critical if gate["outcome"] in ("inconclusive", "missing")]
    supporting = [gate["name"] for gate in gates if gate["tier"] == "supporting" and gate["outcome"] != "passed"]
    word = "no gates" if not critical else "do not ship" if failed else "inconclusive" if unclear else "ship"
    worst = worst_task(numbers)
    opening = {
        "ship": "Ship",
        "do not ship": f"Do not ship: {listed(failed)} failed",
        "inconclusive": f"Inconclusive: the data cannot tell whether {listed(unclear)} holds"
        if len(unclear) == 1
        else f"Inconclusive: the data cannot tell whether {listed(unclear)} hold",
        "no gates": "No critical gate was set, so nothing is certified",
    }[word]
    text = f"{opening}{worst_words(worst, word)}."
    if below := [task for task in below_base(numbers) if task != worst["task"]]:
        text += f" {listed(below)} {'ends' if len(below) == 1 else 'end'} below the base."
    if supporting:
        text += f" Not kept, but not critical: {listed(supporting)}."
    text += "".join(
        f" The limits were changed on {each['when'][:10]}, when {each['points']} point(s) had been evaluated: "
        f"{'; '.join(each['changes'])}."
        for each in history
    )
    return {"verdict": word, "sentence": text, "worst": worst, "failed": failed, "inconclusive": unclear}


def certified(verdict: Verdict | None) -> bool:
    """Whether nothing forbids to ship: no critical gate failed, and none is open."""
    return verdict is None or verdict["verdict"] in ("ship", "no gates")


def worst_task(numbers: dict) -> WorstTask:
    """The task that lost most since its best row; of a stream of one task, that task."""
    R, tasks = numbers["accuracy"], list(numbers["questions"])
    lost = forgetting_by_task(R).tolist()
    place = max(range(len(lost)), key=lost.__getitem__) if lost else 0
    return {
        "task": tasks[place],
        "lost": lost[place] if lost else None,
        "interval": numbers["intervals"]["forgetting_by_task"].get(tasks[place]) if lost else None,
        "base": R[0][place],
        "final": R[-1][place],
    }


def worst_words(worst: WorstTask, word: str) -> str:
    """What follows the opening: the loss of the worst task, whatever passed."""
    base, final = worst["base"], worst["final"]
    below = f"ends below the base ({shown(final)} < {shown(base)})" if base - final >= LOSS else ""
    joint = ", but" if word == "ship" else ";"
    if worst["lost"] is None or worst["lost"] < LOSS:
        return (
            f"{joint} {worst['task']} {below}"
            if below
            else "; no earlier task lost anything" * (worst["lost"] is not None)
        )
    low, high = worst["interval"]
    text = f"{worst['task']} lost {shown(worst['lost'])} [{shown(low)}, {shown(high)}]" + (
        f" and {below}" if below else ""
    )
    if low <= 0 and not below:
        joint = "; the worst task is not clearly worse:"
    return f"{joint} {text}"


def below_base(numbers: dict) -> list[str]:
    """The tasks that end below the untouched model."""
    R = numbers["accuracy"]
    return [task for i, task in enumerate(numbers["questions"]) if R[0][i] - R[-1][i] >= LOSS]


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
