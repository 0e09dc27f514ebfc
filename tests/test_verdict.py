"""Gates on one task or suite, their tiers, what the data cannot tell, and the verdict's sentence; made-up answers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from cpt import gate_history
from cpt.evaluation import metrics, results, statistics
from cpt.evaluation.gates import check_gates
from cpt.evaluation.limits import outcome, questions_needed
from cpt.evaluation.results import numbers
from cpt.evaluation.verdict import certified, verdict
from cpt.recipe import load
from helpers.recipes import mistakes, recipe, write_recipe

TASKS = ["reverse", "caesar", "sort"]


def answered(suite, task, right, n):
    line = {"suite": suite, "task": task, "mode": "greedy", "sample": 0, "error": None}
    return [line | {"row": f"{task}/{i}", "score": float(i < right)} for i in range(n)]


def found_of(table, general=(100, 100, 100, 100), n=100):
    """Three tasks and a suite; `table[t][i]` of n questions of task i are right at point t."""
    points = ["00-base", *(f"0{i}-{task}" for i, task in enumerate(TASKS, start=1))]
    lines = {
        point: [line for i, task in enumerate(TASKS) for line in answered(None, task, row[i], n)]
        + answered("general", "copy", general[t], n)
        for t, (point, row) in enumerate(zip(points, table, strict=True))
    }
    return numbers(TASKS, ["general"], points, lines, True)


FORGOT = found_of([(50, 40, 63), (90, 40, 60), (88, 92, 60), (85, 69, 59)])  # sort ends under its base, caesar lost 23
KEPT = found_of([(50, 40, 30), (90, 40, 30), (90, 92, 30), (90, 92, 90)])


def gate(limit, rule="point", tier="critical"):
    return SimpleNamespace(limit=limit, rule=rule, tier=tier)


def of(gates, found=FORGOT):
    return check_gates(gates, found)


@pytest.mark.parametrize(
    ("name", "value", "passes", "reason"),
    [
        ("worst_forgetting", 0.23, 0.25, "caesar lost 0.230 (0.920 -> 0.690), reverse lost 0.050 (0.900 -> 0.850)"),
        ("below_base", 0.04, 0.05, "sort lost 0.040 (0.630 -> 0.590)"),
        ("accuracy/sort", 0.59, 0.58, "sort ends at 0.590"),
        ("learning_accuracy/caesar", 0.92, 0.9, "caesar reached 0.920"),
        ("forgetting/reverse", 0.05, 0.06, "reverse lost 0.050 (0.900 -> 0.850)"),
        ("below_base/sort", 0.04, 0.05, "sort 0.630 -> 0.590"),
        ("held_out_drop/general", 0.0, 0.01, "nothing was lost"),
        ("held_out/general", 1.0, 0.99, "general ends at 1.000"),
        ("average_accuracy", 0.71, 0.7, "sort 0.590, caesar 0.690, reverse 0.850"),
    ],
)
def test_values(name, value, passes, reason):
    (made,) = of({name: gate(passes)})
    assert made["value"] == pytest.approx(value) and made["passed"] and made["outcome"] == "passed"
    assert made["reason"] == reason
    tighter = passes + (-0.03 if made["direction"] == "max" else 0.03)
    (failed,) = of({name: gate(tighter)})
    assert not failed["passed"] and failed["outcome"] == "failed"
    low, high = made["interval"]
    assert low <= made["value"] <= high


def test_an_interval_that_holds_the_limit_tells_nothing():
    (open_gate,) = of({"forgetting/caesar": gate(0.2, "interval")})
    low, high = open_gate["interval"]
    assert low < 0.2 < high and open_gate["outcome"] == "inconclusive" and not open_gate["passed"]
    needed = open_gate["questions_needed"]
    assert needed == questions_needed(0.23, (low, high), 0.2, 100) == int(np.ceil(100 * ((low - 0.23) / -0.03) ** 2))
    assert f"about {needed:,} questions a task would tell if the value stays (100 now)" in open_gate["message"]
    (clear,) = of({"forgetting/caesar": gate(0.1, "interval")})
    assert clear["outcome"] == "failed" and clear["interval"][0] > 0.1


def test_the_limit_itself_cannot_be_told_by_any_number():
    assert questions_needed(0.1, (0.0, 0.2), 0.1, 50) is None


def test_non_inferiority_is_a_margin_of_the_change():
    made = of({"backward_transfer": gate(0.3, "non_inferiority"), "below_base": gate(0.3, "non_inferiority")})
    assert [(each["limit"], each["outcome"]) for each in made] == [(-0.3, "passed"), (0.3, "passed")]
    (tight,) = of({"backward_transfer": gate(0.01, "non_inferiority")})
    assert tight["outcome"] == "failed" and tight["interval"][1] < -0.01


@pytest.mark.parametrize(
    ("rule", "noise", "expected"),
    [
        ("point", 0.0, "failed"),
        ("point", 0.01, "failed"),
        ("point", 0.02, "inconclusive"),
        ("interval", 0.0, "failed"),
        ("interval", 0.02, "inconclusive"),
    ],
)
def test_no_gate_decides_within_the_noise_floor(rule, noise, expected):
    assert outcome(0.12, (0.11, 0.13), 0.1, "max", rule, noise) == expected


def test_the_noise_of_a_gate_is_of_what_it_compares():
    spread = {"questions": 100, "changed": 0, "largest_difference": 0.0}
    floor = {"tasks": {task: spread for task in TASKS} | {"sort": spread | {"largest_difference": 0.05}}}
    floor |= {"suites": {"general": spread}}
    found = FORGOT | {"noise_floor": floor}
    outcomes = {each["name"]: each["outcome"] for each in of({"below_base": 0.03, "forgetting/reverse": 0.04}, found)}
    assert outcomes == {"below_base": "inconclusive", "forgetting/reverse": "failed"}


def test_what_was_not_evaluated_is_not_certified():
    made = of({"held_out_drop/safety": gate(0.1), "accuracy/rot": gate(0.5)})
    assert [each["outcome"] for each in made] == ["missing", "missing"]
    assert made[0]["message"] == "held_out_drop/safety: not certified: the suite safety was not evaluated"
    assert verdict(made, FORGOT)["verdict"] == "inconclusive"


def test_the_verdict_names_the_worst_task_whatever_passed():
    said = verdict(of({"average_accuracy": gate(0.5)}), FORGOT)
    low, high = FORGOT["intervals"]["forgetting_by_task"]["caesar"]
    assert said["verdict"] == "ship" and certified(said)
    assert said["sentence"] == f"Ship, but caesar lost 0.230 [{low:.3f}, {high:.3f}]. sort ends below the base."
    assert said["worst"]["task"] == "caesar" and said["worst"]["lost"] == pytest.approx(0.23)


def test_the_worst_task_may_also_end_below_the_base():
    found = found_of([(90, 40, 63), (90, 40, 60), (88, 92, 60), (60, 91, 99)])
    said = verdict(of({"average_accuracy": gate(0.5)}, found), found)["sentence"]
    assert said.startswith("Ship, but reverse lost 0.300 [") and said.endswith(
        "and ends below the base (0.600 < 0.900)."
    )


def test_nothing_lost_is_said():
    assert verdict(of({"forgetting": gate(0.1)}, KEPT), KEPT)["sentence"] == "Ship; no earlier task lost anything."


def test_tiers():
    broken = {
        "forgetting": gate(0.05),
        "below_base": gate(0.0, tier="supporting"),
        "held_out_drop": gate(-1, tier="tracked"),
    }
    said = verdict(of(broken), FORGOT)
    assert said["verdict"] == "do not ship" and said["failed"] == ["forgetting"] and not certified(said)
    assert said["sentence"].startswith("Do not ship: forgetting failed; caesar lost 0.230 [")
    assert said["sentence"].endswith("Not kept, but not critical: below_base.")
    said = verdict(of({"forgetting": gate(0.05, tier="supporting"), "accuracy/sort": gate(0.1)}), FORGOT)
    assert said["verdict"] == "ship" and "Not kept, but not critical: forgetting." in said["sentence"]
    said = verdict(of({"forgetting": gate(0.05, tier="tracked")}), FORGOT)
    assert said["verdict"] == "no gates" and certified(said)
    unclear = verdict(of({"forgetting/caesar": gate(0.2, "interval")}), FORGOT)
    assert unclear["verdict"] == "inconclusive" and not certified(unclear)
    assert unclear["sentence"].startswith("Inconclusive: the data cannot tell whether forgetting/caesar holds;")


def test_a_stream_of_one_task():
    found = numbers(["a"], [], ["b", "c"], {"b": answered(None, "a", 9, 10), "c": answered(None, "a", 5, 10)}, True)
    said = verdict(check_gates({"average_accuracy": gate(0.4)}, found), found)
    assert said["sentence"] == "Ship, but a ends below the base (0.500 < 0.900)."


def test_limits_changed_after_results_are_kept_and_said(tmp_path):
    before = {"evaluation": {"gates": {"forgetting": {"limit": 0.05, "rule": "point", "tier": "critical"}}}}
    after = {"evaluation": {"gates": {"forgetting": {"limit": 0.3, "rule": "interval", "tier": "supporting"}}}}
    gate_history.keep(tmp_path, 0, before, after)
    assert gate_history.read(tmp_path) == [], "nothing was known"
    gate_history.keep(tmp_path, 2, before, before)
    gate_history.keep(tmp_path, 2, before, after)
    gate_history.keep(tmp_path, 4, after, {"evaluation": {"gates": {}}})
    history = gate_history.read(tmp_path)
    assert [(each["points"], each["changes"]) for each in history] == [
        (2, ["forgetting 0.05 -> 0.3 (interval, supporting)"]),
        (4, ["forgetting 0.3 (interval, supporting) -> no limit"]),
    ]
    said = verdict(of({}), FORGOT, history)["sentence"]
    assert (
        f"The limits were changed on {history[0]['when'][:10]}, when 2 point(s) had been evaluated: forgetting" in said
    )


def test_a_run_whose_limits_change(tmp_path, cpt):
    """The same command with another limit gives another verdict, and says that the limit was changed."""
    file = write_recipe(tmp_path / "recipe.yaml", recipe("sft", tasks=("reverse",), evaluate=4))
    words = ["run", file, "stream.0.stages.0.args.max_steps=1", "--out", tmp_path / "run", "--quiet"]
    assert cpt(*words, "evaluation.gates.learning_accuracy=1.0", "evaluation.gates.below_base=-1") == 3, cpt.output
    assert "Do not ship: " in cpt.output and "changed" not in cpt.output
    assert cpt(*words, "evaluation.gates.learning_accuracy=0") == 0, cpt.output
    assert "learning_accuracy 1 -> 0; below_base -1 -> no limit." in " ".join(cpt.output.split())
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["gate_history"][0]["points"] == 2 and found["verdict"]["verdict"] == "ship"
    assert "learning_accuracy 1 -> 0" in (tmp_path / "run" / "report.md").read_text().replace("\\", "")
    (tmp_path / "run" / "gate_history.json").write_text("[{}]")
    assert cpt(*words, "evaluation.gates.learning_accuracy=0") == 2
    assert "gate_history.json: is damaged" in cpt.output


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"accuracy/revers": 0.5}, "no task of the stream is called revers; did you mean reverse?"),
        ({"forgetting/caesar": 0.5}, "can never have a value: caesar is the last task"),
        ({"held_out_drop/general": 0.5}, "can never have a value: no suite is evaluated"),
        (
            {"worst/reverse": 0.5},
            "a gate on one task or suite is one of accuracy, learning_accuracy, forgetting, below_base",
        ),
        ({"learning_accuracy": {"limit": 0.1, "rule": "non_inferiority"}}, "rule: non_inferiority is for changes"),
        ({"forgetting": {"limit": -0.1, "rule": "non_inferiority"}}, "limit is the loss that is tolerated, 0 or more"),
        (
            {"forgetting": {"limit": 0.1, "tier": "hard"}},
            "tier: must be one of critical, supporting, tracked, not 'hard'",
        ),
    ],
)
def test_mistakes(gates, said, tmp_path):
    content = recipe("sft")
    content["evaluation"] = {"gates": gates}
    (line,) = mistakes(tmp_path, content)
    assert said in line, line


def test_an_unknown_suite_is_named(tmp_path):
    content = recipe("sft") | {"evaluation": {"suites": ["general"], "gates": {"held_out/generl": 0.5}}}
    (line,) = mistakes(tmp_path, content)
    assert "no suite is called generl; did you mean general?" in line


def test_the_plan_shows_them(tmp_path, cpt):
    content = recipe("sft")
    content["evaluation"] |= {
        "gates": {"backward_transfer": {"limit": 0.1, "rule": "non_inferiority", "tier": "tracked"}}
    }
    assert cpt("check", write_recipe(tmp_path / "recipe.yaml", content)) == 0, cpt.output
    assert "gate: backward_transfer at least -0.1 for the whole interval, tracked" in cpt.output


def same_models(rng, n, accuracy, tasks=4):
    """The answers of models that are truly alike: each row draws the questions it gets right by itself."""
    return [(rng.random((tasks + 1, n)) < accuracy).astype(float) for _ in range(tasks)]


@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.99])
def test_equal_models_seldom_fail_a_gate(n, accuracy):
    """No limit is broken by the whole interval where nothing changed, in 97.5 % of streams: 5 % is far outside of chance.

    And the correction takes the bias away: forgetting without it is .03 with 50 questions at .5.
    """
    rng, pairs = np.random.default_rng(0), 150
    names = ("forgetting", "worst_forgetting", "below_base")
    failed, corrected = dict.fromkeys(names, 0), []
    for _ in range(pairs):
        matrix = same_models(rng, n, accuracy)
        R = np.stack([each.mean(1) for each in matrix], axis=1)
        spans = results.intervals(["a", "b", "c", "d"], matrix, R, {}, {})["metrics"]
        for name in names:
            failed[name] += spans[name][0] > 0
        corrected.append(float(metrics.forgetting(R)) - results.selection_bias(matrix)["forgetting"])
    assert max(failed.values()) <= 0.08 * pairs, failed  # 12 of 150; P(more) is 2e-4 at .025
    assert abs(np.mean(corrected)) < 4 * np.std(corrected) / pairs**0.5 + 1e-9


def test_one_candidate_has_no_bias():
    assert statistics.chosen_on_halves([[np.array([1.0, 0.0, 1.0])]]) == (pytest.approx(2 / 3),)
    assert statistics.chosen_on_halves([[np.array([1.0]), np.array([0.0])]]) is None


def test_recipes_keep_their_gates(tmp_path):
    content = recipe("sft")
    content["evaluation"] = {"gates": {"accuracy/caesar": 0.5, "below_base": {"limit": 0.1, "tier": "supporting"}}}
    made = load(write_recipe(tmp_path / "recipe.yaml", content)).evaluation.gates
    assert (made["accuracy/caesar"].limit, made["below_base"].tier) == (0.5, "supporting")
