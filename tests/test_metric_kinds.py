"""The catalogue of metrics, their functions, gates and the documentation say the same; and metrics of a user's own."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from cpt.checks.findings import Findings
from cpt.checks.surroundings import check_metrics
from cpt.evaluation import metrics, own_metrics, statistics
from cpt.evaluation.gates import check_gates, direction_of
from cpt.evaluation.results import numbers
from cpt.metric_kinds import GATES, KINDS, table
from cpt.recipe import dump, identity, load
from cpt.recipe.json_schema import schema
from helpers.recipes import mistakes, short, write_recipe

R = np.array([[0.9, 0.2], [0.8, 0.3], [0.5, 0.6]])


def test_the_catalogue_and_the_functions():
    assert list(metrics.METRICS) == list(KINDS)
    assert [getattr(metrics, name) for name in KINDS] == [*metrics.METRICS.values()]
    for name, kind in KINDS.items():
        assert kind.formula and kind.about and kind.reading and kind.better in ("higher", "lower")
        least = [metrics.METRICS[name](np.zeros((T + 1, T))) is not None for T in (1, 2)]
        assert least == [kind.least_tasks == 1, True]


@pytest.mark.parametrize(
    "name", ["average_accuracy", "learning_accuracy", "backward_transfer", "forward_transfer", "forgetting"]
)
def test_which_value_is_better(name):
    worst, best = np.array([[0.0, 0.0], [1, 0], [0, 0]]), np.array([[0.0, 0.0], [1, 1], [1, 1]])
    change = metrics.METRICS[name](best) - metrics.METRICS[name](worst)
    assert change > 0 if KINDS[name].better == "higher" else change < 0


def test_the_table_of_the_documentation():
    text = (Path(__file__).parent.parent / "docs" / "report.md").read_text(encoding="utf-8")
    assert table() in text


def test_a_gate_on_each_metric():
    """Its direction, its value and interval, and what the value is made of."""
    for direction, names in (
        ("min", ("average_accuracy", "learning_accuracy", "backward_transfer", "forward_transfer")),
        ("max", ("forgetting", "held_out_drop")),
    ):
        assert {direction_of(name) for name in names} == {direction}
    values, spans = metrics.summary(R), dict.fromkeys(KINDS, (0.1, 0.2))
    found = {"accuracy": R.tolist(), "questions": {"a": 10, "b": 10}, "metrics": values}
    found |= {"intervals": {"metrics": spans}, "held_out": {}, "held_out_tasks": {}}
    verdicts = check_gates({"average_accuracy": 0.6, "backward_transfer": -0.2, "forward_transfer": 0.05}, found)
    assert [verdict["message"] for verdict in verdicts] == [
        "average_accuracy 0.550 < 0.600 FAILED: a 0.500, b 0.600",
        "backward_transfer -0.300 < -0.200 FAILED: a -0.300",
        "forward_transfer 0.100 >= 0.050 passed: b 0.100",
    ]
    gates = schema()["$defs"]["Evaluation"]["properties"]["gates"]["properties"]
    assert list(gates) == list(GATES)


# -- metrics of a user's own ---------------------------------------------------------------------------------------------

MINE = """\
import numpy as np


def worst_accuracy(R):
    \"\"\"The lowest final accuracy of a task.

    More of it.\"\"\"
    return R[-1].min()


def spread(R):
    return np.ptp(R[-1])


def fails(R):
    return R[-1].nothing()


def text(R):
    return "much"


def infinite(R):
    return 1 / 0.0 if False else float("inf")


def some(R):
    return None if R.min() == 0 else 1.0


def of_two(R):
    return R[-1, 0] if R.shape[1] > 1 else None


number = 3
"""
SPREAD = {"function": "mine:spread", "name": "range", "better": "lower", "about": "best minus worst", "lowest": -1.0}


def content(*own, tasks=("reverse", "caesar"), gates=None) -> dict:
    made = short("sft", steps=1, tasks=tasks, evaluate=4)
    made["evaluation"] |= {"metrics": list(own), "gates": gates or {}}
    return made


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def test_what_a_recipe_holds(folder):
    recipe = load(write_recipe(folder / "recipe.yaml", content("mine:worst_accuracy", SPREAD)))
    kinds = {name: metric.kind for name, metric in own_metrics.own_metrics(recipe).items()}
    assert {name: (kind.about, kind.direction, kind.lowest) for name, kind in kinds.items()} == {
        "worst_accuracy": ("The lowest final accuracy of a task.", "min", 0.0),
        "range": ("best minus worst", "max", -1.0),
    }
    assert load(write_recipe(folder / "stored.yaml", dump(recipe))) == recipe
    assert identity(load(write_recipe(folder / "none.yaml", content()))) == identity(recipe), "the run is the same"


def test_values_and_intervals(folder):
    """Of each matrix by itself: a bootstrap is of single matrices, however the function is written."""
    recipe = load(write_recipe(folder / "recipe.yaml", content("mine:worst_accuracy", SPREAD)))
    own = own_metrics.own_metrics(recipe)
    assert own["range"](np.stack([R, R[::-1]])).tolist() == pytest.approx([0.1, 0.7])
    lines = {
        f"{row}": [
            {"suite": None, "task": task, "row": f"{task}{i}", "mode": "greedy", "score": float(i < 10 * R[row, place])}
            | {"error": None}
            for place, task in enumerate("ab")
            for i in range(10)
        ]
        for row in range(3)
    }
    found = numbers(["a", "b"], [], ["0", "1", "2"], lines, True, own=own)
    plain = numbers(["a", "b"], [], ["0", "1", "2"], lines, True)
    assert found["metrics"] == plain["metrics"] | {"worst_accuracy": 0.5, "range": pytest.approx(0.1)}
    assert {name: found["intervals"]["metrics"][name] for name in KINDS} == plain["intervals"]["metrics"]
    low, high = found["intervals"]["metrics"]["worst_accuracy"]
    part = statistics.wilson(5, 10)
    assert low <= part[0] and high >= part[1] and low < 0.5 < high
    low, high = found["intervals"]["metrics"]["range"]
    assert low <= 0.1 <= high
    verdict = check_gates({"range": 0.05}, found, own)[0]
    assert (verdict["direction"], verdict["passed"]) == ("max", False)
    assert "range 0.100 > 0.050 FAILED: " in verdict["message"]


@pytest.mark.parametrize(
    ("own", "gates", "said"),
    [
        ("mine:worst", {}, "evaluation.metrics.0: {}/mine.py has no worst; it has: worst_accuracy, spread"),
        ("none_such:f", {}, "evaluation.metrics.0: no module none_such: neither {}/none_such.py nor an installed"),
        ("mine.spread", {}, "evaluation.metrics.0: 'mine.spread' names no function: write module:function"),
        ("mine:number", {}, "evaluation.metrics.0: {}/mine.py: number is no function"),
        ("broken:f", {}, "evaluation.metrics.0: {}/broken.py:1: SyntaxError"),
        (
            {"function": "mine:spread", "better": "more"},
            {},
            "metrics.0.better: must be one of higher, lower, not 'more'",
        ),
        ({"function": "mine:spread", "titel": "x"}, {}, "evaluation.metrics.0.titel: unknown key"),
        (
            {"function": "mine:spread", "name": "forgetting"},
            {},
            "forgetting is the name of a metric that is there already",
        ),
        ("mine:spread", {"spred": 0.5}, "evaluation.gates.spred: must be one of "),
    ],
)
def test_mistakes(own, gates, said, folder):
    (folder / "broken.py").write_text("def f(:\n")
    (line,) = mistakes(folder, content(own, gates=gates))
    assert said.format(folder) in line, line


def test_two_of_one_name(folder):
    (line,) = mistakes(folder, content("mine:spread", "mine:spread"))
    assert "evaluation.metrics.1: two metrics are called spread: give one another `name`" in line


@pytest.mark.parametrize(
    ("own", "gates", "said"),
    [
        ("mine:fails", {}, "{}/mine.py:16: the metric mine:fails fails: AttributeError: 'numpy.ndarray' object has no"),
        ("mine:text", {}, "the metric mine:text fails: ValueError: could not convert string to float: 'much'"),
        ("mine:infinite", {}, "{}/mine.py:23: the metric mine:infinite returns inf: return None instead"),
        ("mine:some", {}, "{}/mine.py:27: the metric mine:some returns None of some matrices alone: return a number"),
        (
            "mine:of_two",
            {"of_two": 0.5},
            "evaluation.gates.of_two: can never have a value: mine:of_two returns None of 1",
        ),
    ],
)
def test_a_metric_is_tried(own, gates, said, folder):
    recipe = load(write_recipe(folder / "recipe.yaml", content(own, gates=gates, tasks=("reverse",))))
    findings = Findings()
    check_metrics(recipe, findings)
    (problem,) = findings.problems
    assert said.format(folder) in str(problem)


def test_in_a_run(folder, cpt):
    """Its number against the matrix, its gate, its place in the report; a changed file changes the numbers, not the run."""
    gates = {"worst_accuracy": 0.0, "range": -0.5}
    file, out = (
        write_recipe(folder / "recipe.yaml", content("mine:worst_accuracy", SPREAD, gates=gates)),
        folder / "run",
    )
    assert cpt("check", file, "--out", out) == 0, cpt.output
    for line in ("metric: range (mine:spread)", "gate: worst_accuracy at least 0", "gate: range at most -0.5"):
        assert line in cpt.output
    assert cpt("run", file, "--out", out, "--quiet") == 3, cpt.output
    results = json.loads((out / "results.json").read_text())
    last = results["accuracy"][-1]
    assert results["metrics"]["worst_accuracy"] == min(last)
    assert results["metrics"]["range"] == pytest.approx(max(last) - min(last))
    assert {gate["name"]: gate["passed"] for gate in results["gates"]} == {"worst_accuracy": True, "range": False}
    wanted = {"mine.py": hashlib.sha256((folder / "mine.py").read_bytes()).hexdigest()}
    assert results["own_metrics"]["range"]["files"] == wanted
    report = (out / "report.md").read_text()
    assert "| Worst accuracy | **" in report and "The lowest final accuracy of a task." in report
    assert "| Range | **" in report and "best minus worst" in report
    (folder / "mine.py").write_text(MINE.replace("R[-1].min()", "R[-1].max()"))
    assert cpt("run", file, "--out", out, "--quiet") == 3, cpt.output
    again = json.loads((out / "results.json").read_text())
    assert again["metrics"]["worst_accuracy"] == max(last) and again["accuracy"] == results["accuracy"]
