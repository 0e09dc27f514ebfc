"""Training curves and costs, stage by stage."""

from cpt.report.charts import curve
from cpt.report.formatting import compact, count, duration, size
from cpt.report.merges import place_of
from cpt.report.reading import Run

CURVES = {  # TRL's log keys and ours, in the order they are shown
    "reward": "Reward",
    "loss": "Loss",
    "kl": "KL to the reference",
    "kl_from_start": "KL from the stage's start",
    "entropy": "Entropy",
    "hybrid/demonstration_share": "Prompts taught by demonstration",
    "hybrid/rollout_loss": "Loss of the rollouts",
    "hybrid/demonstration_loss": "Loss of the demonstrations",
    "hybrid/rollout_grad_norm": "Gradient norm of the rollouts",
    "hybrid/demonstration_grad_norm": "Gradient norm of the demonstrations",
    "baseline/mean": "Baseline",
    "baseline/shift": "Baseline's distance to the group mean",
    "snr/ratio": "Signal-to-noise ratio of the gradient",
    "snr/step": "Factor of the learning rate",
    "ttrl/majority_share": "Share of the majority",
    "ttrl/distinct_answers": "Distinct answers to a prompt",
    "ttrl/distinct_majorities": "Distinct majorities of the prompts",
    "rewards/accuracies": "Preference accuracy",
    "rewards/margins": "Preference margin",
    "mean_token_accuracy": "Token accuracy",
    "completions/mean_length": "Completion length",
    "frac_reward_zero_std": "Zero-signal groups",
    "grad_norm": "Gradient norm",
    "unscorable": "Rollouts not scored",
    "rollouts/logprob_difference": "Logprob gap to the engine",
    "sampling/importance_sampling_ratio/mean": "Importance ratio to the engine",
}
ALARMS = {"unscorable"}  # not shown where it was always 0


def panels(run: Run) -> list[dict]:
    """For each stage its curves; a measure has one range over all stages of a kind, so that they compare."""
    stages: dict[tuple[str, str], list[dict]] = {}
    for line in run.logged:
        stages.setdefault((line["task"], line["stage"]), []).append(line)
    spans: dict[tuple[str, str], tuple[float, float]] = {}
    for (_, stage), lines in stages.items():
        for key in CURVES:
            values = [line[key] for line in lines if line.get(key) is not None]
            if values and (key not in ALARMS or any(values)):
                place = (kind_of(stage), key)
                low, high = spans.get(place, (values[0], values[0]))
                spans[place] = (min(low, *values), max(high, *values))
    summaries = {
        (each["task"], each["stage"]): f"{each['steps']} steps, {duration(each['seconds'])}"
        for each in run.results["stages"]
    }
    summaries |= {
        (stage["task"], f"{merge['strategy']}-memory"): "{steps} steps on {rows} rows".format(**merge["memory"])
        for stage in run.results["stages"]
        for merge in stage.get("merges", ())
        if "memory" in merge
    }
    return [
        {
            "task": task,
            "stage": stage,
            "summary": summaries.get((task, stage), "not finished"),
            "curves": [c for key in CURVES if (c := panel(task, stage, lines, key, spans))],
        }
        for (task, stage), lines in stages.items()
    ]


def kind_of(stage: str) -> str:
    """`rlvr` of `0-rlvr`."""
    return stage.split("-", 1)[1]


def panel(task: str, stage: str, lines: list[dict], key: str, spans: dict) -> dict | None:
    """One curve, or None where it was measured less than twice, or is an alarm that no stage of the kind gave."""
    logged = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    if len(logged) < 2 or (kind_of(stage), key) not in spans:
        return None
    xs, ys = zip(*logged, strict=True)
    label = f"{CURVES[key]} of {task} {stage}, from {compact(ys[0])} to {compact(ys[-1])}"
    svg = curve(label, xs, ys, most_x=lines[-1]["max_steps"], span=spans[kind_of(stage), key])
    return {"title": CURVES[key], "first": compact(ys[0]), "value": compact(ys[-1]), "svg": svg}


def notes(results: dict) -> list[str]:
    """Rows that were too long, and what stages noted."""
    return overlong(results.get("overlong") or {}) + [
        f"{stage['task']} {stage['stage']}: {note}" for stage in results["stages"] for note in stage["notes"]
    ]


def overlong(counts: dict) -> list[str]:
    """What became of rows that were too long: {task: {split: {rows, left_out, cut}}}."""
    outcomes = {"left_out": "left out", "cut": "cut, so that their ends were not trained on"}
    return [
        f"{task} {split}: {counted[name]} of {counted['rows']} rows were too long and {outcomes[name]}"
        for task, splits in counts.items()
        for split, counted in splits.items()
        for name in outcomes
        if counted.get(name)
    ]


def filters(results: dict) -> list[dict]:
    """What each stage's filter kept, and the ids that it dropped."""
    kept = [
        (f"{stage['task']} {stage['stage']}", stage["filter"]) for stage in results["stages"] if stage.get("filter")
    ]
    return [
        {
            "stage": stage,
            "summary": f"{count(each['kept'])} of {count(each['prompts'])} prompts kept "
            f"({each['kept'] / each['prompts']:.0%}); dropped ({each['drop']})",
            "dropped": each["dropped"],
        }
        for stage, each in kept
    ]


def costs(results: dict) -> dict:
    """A row for each stage, merge and evaluation as they ran, and the whole; `part` is in percent of the time."""
    run_cost = results["cost"]
    rows = []
    for point, evaluation in results["evaluation_cost"].items():
        stages = [stage for stage in results["stages"] if stage["point"] == point]
        rows += [cost_row(f"{stage['task']} {stage['stage']}", "train", stage, run_cost) for stage in stages]
        rows += [
            cost_row(f"{place_of(stage, merge)} {merge['strategy']}", "train", merge, run_cost)
            for stage in stages
            for merge in stage.get("merges", ())
        ]
        rows.append(cost_row(f"evaluation of {point}", "evaluate", evaluation, run_cost))
    if "during" in run_cost:
        rows.append(cost_row("evaluation within stages", "evaluate", run_cost["during"], run_cost))
    trained = [each for stage in results["stages"] for each in (stage, *stage.get("merges", ()))]
    parts = [
        {"what": what, "time": duration(seconds), "part": 100 * seconds / (run_cost["seconds"] or 1), "name": name}
        for name, what, seconds in (
            ("train", "training", sum(each["seconds"] for each in trained)),
            ("evaluate", "evaluation", sum(each["seconds"] for each in results["evaluation_cost"].values())),
            ("evaluate", "evaluation within stages", run_cost.get("during", {}).get("seconds", 0.0)),
        )
        if seconds or name == "train" or what == "evaluation"
    ]
    return {"rows": rows, "whole": cost_row("Total", "whole", run_cost, run_cost), "parts": parts}


def cost_row(what: str, name: str, spent: dict, run_cost: dict) -> dict:
    return {
        "what": what,
        "name": name,
        "steps": count(spent.get("steps")),
        "time": duration(spent["seconds"]),
        "part": 100 * spent["seconds"] / (run_cost["seconds"] or 1),
        "trained": count(spent.get("train_tokens")),
        "sampled": count(spent.get("rollout_tokens")),
        "memory": size(spent.get("peak_memory_bytes")),
    }
