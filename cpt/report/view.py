"""What the report shows, as plain values that both templates read: the verdict first, then the numbers behind it."""

from cpt.evaluation.limits import WHOLE, compared_number, digits_apart, outcome
from cpt.evaluation.metrics import forgetting_by_task
from cpt.metric_kinds import HELD_OUT_DROP, KINDS, MetricKind
from cpt.report import colormap, examples, questions, training
from cpt.report.baselines import baselines, levels
from cpt.report.charts import columns_of, gauge, stream_chart
from cpt.report.contamination import contamination
from cpt.report.during import during
from cpt.report.formatting import interval, listed, score, signed
from cpt.report.measured import measured
from cpt.report.merges import merges
from cpt.report.overview import base_model, contents, matrix_csv, method
from cpt.report.reading import Run
from cpt.sizes import many

FIRST = ("learning_accuracy", "forgetting")  # metrics that stand before the suites


def view(run: Run) -> dict:
    """Everything the templates need, by section; a section that has nothing to show is empty."""
    results = run.results
    shapes = questions.shapes(run)
    seen = {
        "name": results["recipe"],
        "seed": results["seed"],
        "tasks": results["tasks"],
        "complete": results["complete"],
        "missing": run.missing,
        "manifest": run.manifest,
        "recipe": run.recipe,
        "verdict": verdict(results),
        "gates": [gate_row(gate) for gate in results["gates"]],
        "attempts": [attempt_row(each) for each in results.get("attempts", ())],
        "tiles": tiles(results),
        "matrix": matrix(run),
        "noise": noise_line(results),
        "legend": {"light": colormap.scale(colormap.LIGHT), "dark": colormap.scale(colormap.DARK)},
        "task_charts": task_charts(run),
        "columns": columns_of(len(results["tasks"])),
        "suite_charts": suite_charts(run),
        "baselines": baselines(run),
        "during": during(run),
        "contamination": contamination(run),
        "held_out_tasks": held_out_tasks(results),
        "measured": measured(results),
        "sampled": sampled(run),
        "merges": merges(results),
        "flips": examples.flips(run),
        "errors": examples.verifier_errors(run),
        "training": training.panels(run),
        "notes": training.notes(results),
        "filters": training.filters(results),
        "costs": training.costs(results),
        "shapes": shapes,
        "odd": questions.odd(shapes),
        "questions": questions.questions(run),
        "method": method(run),
        "base_model": base_model(run),
        "csv": matrix_csv(run),
    }
    return seen | {"contents": contents(seen)}


def metric_kinds(results: dict) -> dict[str, MetricKind]:
    """What is known of each metric, the user's own last."""
    own = results.get("own_metrics", {})
    made = {
        name: MetricKind(name, each["function"], each["about"], each["about"], each["better"], each["lowest"])
        for name, each in own.items()
    }
    return KINDS | made


def in_words(name: str) -> str:
    """The name of a gate: `forgetting of sort`."""
    head, _, part = name.partition("/")
    head = (
        "held-out drop" if head == HELD_OUT_DROP else "held-out score" if head == "held_out" else head.replace("_", " ")
    )
    return f"{head} of {part}" if part else head


MARKS = {"passed": "✓", "failed": "✕", "inconclusive": "?", "missing": "?"}
STATUS = {"ship": "ship", "do not ship": "hold", "inconclusive": "unclear", "no gates": "ungated"}
HEADLINES = {"ship": "Ship", "do not ship": "Do not ship", "inconclusive": "Inconclusive", "no gates": "No gates"}


def outcome_of(gate: dict) -> str:
    """What became of a gate; runs of earlier versions say only whether it passed."""
    if "outcome" in gate:
        return gate["outcome"]
    return outcome(gate["value"], gate["interval"], gate["limit"], gate["direction"], gate["rule"])


def verdict(results: dict) -> dict:
    """status (ship, hold, unclear, incomplete or ungated), the headline, what it says, and the gates behind it."""
    tasks, done = results["tasks"], len(results["accuracy"]) - 1
    if not results["complete"] and "stopped" not in results:
        left = listed(tasks[done:])
        text = f"No verdict yet: {left} {'are' if len(tasks) - done > 1 else 'is'} still to be trained or evaluated."
        return {
            "status": "incomplete",
            "headline": f"Incomplete: {done} of {len(tasks)} tasks",
            "text": text,
            "worst": "",
            "reasons": [],
        }
    gates = [gate for gate in results["gates"] if gate.get("tier", "critical") == "critical"]
    broken = [gate for gate in gates if outcome_of(gate) == "failed"]
    unclear = [gate for gate in gates if outcome_of(gate) in ("inconclusive", "missing")]
    if "stopped" in results:
        failed = [gate for gate in gates if outcome_of(gate) == "failed"]
        return {
            "status": "hold",
            "headline": f"Stopped after {results['stopped']['point']}: do not ship",
            "text": "; ".join(sentence(gate) for gate in failed).capitalize() + ".",
            "worst": results["verdict"]["sentence"],
            "reasons": [{"name": in_words(gate["name"]), "reason": arrows(gate["reason"])} for gate in failed],
        }
    word = "no gates" if not gates else "do not ship" if broken else "inconclusive" if unclear else "ship"
    sentences = [] if gates else ["No gates were set, so there is no verdict."]
    if shown := broken or unclear or gates:
        text = "; ".join(sentence(gate) for gate in shown)
        sentences.append(f"{text[0].upper()}{text[1:]}.")
    return {
        "status": STATUS[word],
        "headline": HEADLINES[word],
        "text": " ".join([*sentences, summary(results)]),
        "worst": (results.get("verdict") or {}).get("sentence", ""),
        "reasons": [{"name": in_words(gate["name"]), "reason": arrows(gate["reason"])} for gate in (*broken, *unclear)],
    }


def sentence(gate: dict) -> str:
    """`forgetting is 0.310, over its limit of 0.120`."""
    if gate["value"] is None:
        return f"{in_words(gate['name'])} has no value"
    held, most = outcome_of(gate), gate["direction"] == "max"
    digits = digits_of(gate)
    value, limit = f"{in_words(gate['name'])} is {score(gate['value'], digits)}", score(gate["limit"], digits)
    if gate["rule"] in WHOLE:
        value += f" [{interval(gate['interval'], digits)}]"
        side = {
            "passed": f"wholly {'within' if most else 'above'}",
            "failed": f"wholly {'over' if most else 'under'}",
            "inconclusive": "on both sides of",
        }[held]
        return f"{value}, {side} {limit}"
    side = {
        (True, "passed"): "within its limit of",
        (True, "failed"): "over its limit of",
        (False, "passed"): "at or above its minimum of",
        (False, "failed"): "under its minimum of",
    }.get((most, held), "within the noise floor of its limit of")
    return f"{value}, {side} {limit}"


def digits_of(gate: dict) -> int:
    """Decimals that show on which side of the limit the gate's number lies."""
    if gate["value"] is None:
        return 3
    return digits_apart(
        compared_number(gate["value"], gate["interval"], gate["direction"], gate["rule"]), gate["limit"]
    )


def summary(results: dict) -> str:
    metrics = results["metrics"]
    many = len(results["tasks"]) > 1
    text = f"{'The tasks were' if many else 'The task was'} learnt to {score(metrics['learning_accuracy'])}"
    text += f" on average and end at {score(metrics['average_accuracy'])}" if many else ""
    for suite, scores in results["held_out"].items():
        text += f"; {suite} (held out) went from {score(scores[0])} to {score(scores[-1])}"
    return text + "."


def arrows(text: str) -> str:
    return text.replace("->", "→")


def gate_row(gate: dict) -> dict:
    sign, digits = "≤" if gate["direction"] == "max" else "≥", digits_of(gate)
    return {
        "name": in_words(gate["name"]),
        "value": score(gate["value"], digits),
        "interval": interval(gate["interval"], digits),
        "limit": f"{sign} {score(gate['limit'], digits)}",
        "rule": "the whole interval" if gate["rule"] in WHOLE else "the value",
        "tier": gate.get("tier", "critical"),
        "outcome": outcome_of(gate),
        "mark": MARKS[outcome_of(gate)],
        "noise": score(gate["noise"], digits) if gate.get("noise") else "",
        "reason": arrows(gate["reason"]),
    }


def attempt_row(made: dict) -> dict:
    accuracy = ", ".join(f"{task} {score(value)}" for task, value in made["accuracy"].items())
    return made | {"failed": ", ".join(map(in_words, made["failed"])), "accuracy": accuracy}


def tiles(results: dict) -> list[dict]:
    """The key numbers of a complete run: learning and forgetting, the held-out suites, then the other metrics."""
    if not results["complete"]:
        return []
    gates = {gate["name"]: gate for gate in results["gates"]}
    values, spans = results["metrics"], results["intervals"]["metrics"]
    made = {
        name: tile(kind.title, kind.about, values[name], spans[name], gates.get(name), kind.lowest)
        for name, kind in metric_kinds(results).items()
        if values.get(name) is not None
    }
    suites = []
    for suite, scores in results["held_out"].items():
        loss, ends = scores[0] - scores[-1], results["intervals"]["held_out_drop"][suite]
        about = f"what it could already do, {score(scores[0])} → {score(scores[-1])}"
        gate = alone(gates["held_out_drop"], loss, ends) if "held_out_drop" in gates else None
        suites.append(tile(f"Held-out drop: {suite}", about, loss, ends, gate, 0.0))
    first = [made.pop(name) for name in FIRST if name in made]
    return [*first, *suites, *made.values()]


def alone(gate: dict, value: float, ends) -> dict:
    """The gate on all suites, as if this were the only one."""
    held = outcome(value, ends, gate["limit"], gate["direction"], gate["rule"], gate.get("noise", 0.0))
    return gate | {"value": value, "interval": ends, "passed": held == "passed", "outcome": held}


def tile(title: str, about: str, value: float, ends, gate: dict | None, low: float) -> dict:
    limit, digits = (gate["limit"], digits_of(gate)) if gate else (None, 3)
    return {
        "title": title,
        "about": about,
        "value": signed(value, digits) if low < 0 else score(value, digits),
        "interval": interval(ends, digits),
        "gauge": gauge(value, ends, limit, low),
        "limit": gate_row(gate)["limit"] if gate else None,
        "outcome": outcome_of(gate) if gate else None,
        "mark": MARKS[outcome_of(gate)] if gate else "",
    }


def matrix(run: Run) -> dict:
    """The accuracy matrix as rows of cells, the held-out suites beside it, and what each column lost by the end."""
    results = run.results
    tasks, suites = results["tasks"], list(results["held_out"])
    ends = results["intervals"]
    rows = []
    for t, point in enumerate(run.points):
        cells = [
            cell(point, task, results["accuracy"][t][i], ends["accuracy"][t][i], kind_of(t, i + 1))
            for i, task in enumerate(tasks)
        ]
        held = [
            cell(point, suite, results["held_out"][suite][t], ends["held_out"][suite][t], "held") for suite in suites
        ]
        rows.append({"name": "base model" if t == 0 else f"after {tasks[t - 1]}", "cells": cells, "held": held})
    return {"tasks": tasks, "suites": suites, "rows": rows, "lost": lost(results) if results["complete"] else []}


def noise_line(results: dict) -> str:
    """How much the base's scores vary; empty if that was not measured."""
    if not (floor := results.get("noise_floor")):
        return ""
    text = (
        f"Noise floor: the base was evaluated {many(floor['repeats'], 'more time')} in other batches, and "
        f"{floor['changed']:,} of {floor['answers']:,} answers changed."
    )
    spreads = {**floor["tasks"], **floor["suites"]}
    moved = [
        f"{name} {score(each['largest_difference'])}" for name, each in spreads.items() if each["largest_difference"]
    ]
    return (
        f"{text} Scores moved by up to: {', '.join(moved)}. Smaller differences are no finding."
        if moved
        else (f"{text} No score moved, so every difference is one of the weights.")
    )


def kind_of(row: int, trained: int) -> str:
    return "own" if row == trained else "past" if row > trained else "future"


def cell(point: str, column: str, value: float, ends, kind: str) -> dict:
    title = f"{column} at {point}: {value:.3f}, 95 % interval {ends[0]:.3f} to {ends[1]:.3f}"
    return {
        "text": score(value),
        "ends": f"{ends[0]:.2f}–{ends[1]:.2f}",
        "title": title,
        "kind": kind,
        "style": colormap.style(value),
    }


def lost(results: dict) -> list[dict]:
    """For each column the loss that the gates compare, with its interval; the last task cannot have lost anything yet."""
    R, tasks = results["accuracy"], results["tasks"]
    ends = results["intervals"]
    losses = [
        (loss, ends["forgetting_by_task"][task]) for loss, task in zip(forgetting_by_task(R), tasks, strict=False)
    ]
    losses.append((None, None))
    losses += [(scores[0] - scores[-1], ends["held_out_drop"][suite]) for suite, scores in results["held_out"].items()]
    return [{"text": score(value), "interval": interval(span), "much": (value or 0) >= 0.05} for value, span in losses]


def task_charts(run: Run) -> list[dict]:
    results = run.results
    columns = list(zip(*results["accuracy"], strict=True))
    charts = []
    for i, task in enumerate(results["tasks"]):
        chart = stream_chart(
            f"accuracy of {task}",
            run.points,
            columns[i],
            [row[i] for row in results["intervals"]["accuracy"]],
            rows=len(results["tasks"]) + 1,
            ghosts=[column for j, column in enumerate(columns) if j != i],
            trained=i + 1,
            levels=levels(results, i),
            columns=columns_of(len(columns)),
        )
        charts.append({"title": task, "value": score(columns[i][-1]), "svg": chart})
    return charts


def suite_charts(run: Run) -> list[dict]:
    results = run.results
    charts = []
    for suite, scores in results["held_out"].items():
        ghosts = list(results["held_out_tasks"][suite].values())
        chart = stream_chart(
            f"score of {suite}",
            run.points,
            scores,
            results["intervals"]["held_out"][suite],
            rows=len(results["tasks"]) + 1,
            ghosts=ghosts if len(ghosts) > 1 else (),
        )
        charts.append({"title": suite, "value": score(scores[-1]), "svg": chart})
    return charts


def held_out_tasks(results: dict) -> list[dict]:
    """Each task of each suite: at the base, at the end, and the change, the largest loss first."""
    rows = [
        {
            "suite": suite,
            "task": task,
            "base": score(s[0]),
            "last": score(s[-1]),
            "change": s[-1] - s[0],
            "signed": signed(s[-1] - s[0]),
        }
        for suite, tasks in results["held_out_tasks"].items()
        for task, s in tasks.items()
    ]
    return sorted(rows, key=lambda row: row["change"])


def sampled(run: Run) -> dict | None:
    """pass@k: a row for each task and k, a column for each point."""
    rows = [
        {
            "task": task,
            "k": name,
            "first": name == next(iter(passes)),
            "cells": [{"text": score(value), "style": colormap.style(value)} for value in values],
        }
        for task, passes in run.results["sampled"].items()
        for name, values in passes.items()
    ]
    return {"points": run.points, "rows": rows} if rows else None
