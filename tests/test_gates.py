"""The numbers of results.json from evaluated answers, and the gates judged on them."""

import random
from types import SimpleNamespace

import pytest

from cpt.evaluation import statistics
from cpt.evaluation.gates import apart, check_gates
from cpt.evaluation.results import numbers

POINTS = ["00-base", "01-a", "02-b"]


def line(suite, task, row, score, mode="greedy", sample=0, error=None):
    return {
        "suite": suite,
        "task": task,
        "row": f"{task}/{row}",
        "mode": mode,
        "sample": sample,
        "score": score,
        "error": error,
    }


def answered(suite, task, right, n=10):
    return [line(suite, task, row, float(row < right)) for row in range(n)]


def stream(a=(0, 10, 4), b=(0, 1, 9), g=(10, 9, 8), h=(10, 10, 10)):
    """Two tasks of ten questions and a suite of two tasks; how many are right at each of the three points."""
    return {
        point: [
            *answered(None, "a", a[i]),
            *answered(None, "b", b[i]),
            *answered("general", "g", g[i]),
            *answered("general", "h", h[i]),
        ]
        for i, point in enumerate(POINTS)
    }


def found_of(lines=None, points=POINTS, **rest):
    lines = lines or stream(**rest)
    return numbers(["a", "b"], ["general"], points, {point: lines[point] for point in points}, len(points) == 3)


def test_numbers_of_a_whole_stream():
    found = found_of()
    assert found["accuracy"] == [[0, 0], [1, 0.1], [0.4, 0.9]]
    assert found["held_out"] == {"general": [1, 0.95, 0.9]}
    assert found["held_out_tasks"]["general"] == {"g": [1, 0.9, 0.8], "h": [1, 1, 1]}
    assert found["metrics"]["forgetting"] == pytest.approx(0.6)
    assert found["metrics"]["learning_accuracy"] == pytest.approx(0.95)
    assert found["questions"] == {"a": 10, "b": 10}
    assert found["held_out_questions"] == {"general": 20}
    assert found["intervals"]["accuracy"][2][0] == statistics.wilson(4, 10)
    assert found["intervals"]["forgetting_by_task"] == {"a": statistics.tango(6, 0, 10)}
    assert found["intervals"]["held_out_drop"] == {"general": statistics.tango(2, 0, 20)}


def test_numbers_of_a_part_have_no_metrics():
    found = found_of(points=POINTS[:2])
    assert found["accuracy"] == [[0, 0], [1, 0.1]]
    assert set(found["metrics"].values()) == {None}
    assert found["intervals"]["metrics"]["forgetting"] is None
    assert len(found["intervals"]["accuracy"]) == 2


def test_answers_are_paired_by_row_whatever_their_order():
    lines = stream()
    shuffled = {point: random.Random(0).sample(each, len(each)) for point, each in lines.items()}
    assert found_of(shuffled) == found_of(lines)


def test_other_questions_at_one_point_are_noticed():
    lines = stream()
    lines["02-b"][0] = line(None, "a", 99, 1.0)
    with pytest.raises(AssertionError, match="questions differ"):
        found_of(lines)


def test_pass_at_k_and_verifier_errors():
    draws = [
        line(None, "a", row, score, "sampled", i)
        for row, scores in enumerate([(1, 0, 0, 0), (1, 1, 1, 1)])
        for i, score in enumerate(scores)
    ]
    bad = [line("general", "g", 90, 0.0, error="timeout: 5 s"), line("general", "g", 91, 0.0, error="timeout: 5 s")]
    lines = {"00-base": [*answered(None, "a", 0), *draws, *answered("general", "g", 3), *bad]}
    found = numbers(["a"], ["general"], ["00-base"], lines, False, k=(1, 2))
    assert found["sampled"] == {"a": {"pass@1": [pytest.approx(0.625)], "pass@2": [pytest.approx(0.75)]}}
    assert found["verifier_errors"] == {"00-base": {"general/g": {"timeout": 2}}}


def test_a_gate_that_fails_says_who_and_by_how_much():
    verdicts = check_gates({"forgetting": 0.12, "held_out_drop": 0.2, "learning_accuracy": 0.96}, found_of())
    assert [(each["name"], each["direction"], each["passed"]) for each in verdicts] == [
        ("forgetting", "max", False),
        ("held_out_drop", "max", True),
        ("learning_accuracy", "min", False),
    ]
    assert verdicts[0]["message"] == "forgetting 0.600 > 0.120 FAILED: a lost 0.600 (1.000 -> 0.400)"
    assert verdicts[1]["message"].startswith("held_out_drop 0.100 <= 0.200 passed: general lost 0.100 (1.000 -> 0.900)")
    assert "general/g lost 0.200 (1.000 -> 0.800)" in verdicts[1]["message"]
    assert verdicts[2]["message"] == "learning_accuracy 0.950 < 0.960 FAILED: b reached 0.900, a reached 1.000"
    assert verdicts[0]["value"] == pytest.approx(0.6)


def test_the_interval_rule_wants_the_whole_interval():
    found = found_of(a=(0, 10, 10))  # nothing forgotten
    point, whole = (
        check_gates({"held_out_drop": SimpleNamespace(limit=0.15, rule=rule)}, found)[0]
        for rule in ("point", "interval")
    )
    assert point["passed"] and not whole["passed"]
    assert whole["interval"][1] > 0.15 > whole["value"]
    assert "upper end 0.301 > 0.150 INCONCLUSIVE" in whole["message"] and whole["outcome"] == "inconclusive"
    low = check_gates({"learning_accuracy": SimpleNamespace(limit=0.9, rule="interval")}, found)[0]
    assert low["passed"] == (low["interval"][0] >= 0.9)


def test_a_limit_that_is_met_exactly_passes():
    assert check_gates({"held_out_drop": 0.1}, found_of())[0]["passed"]  # 1 - 0.9 is not 0.1 in floats
    close = check_gates({"held_out_drop": 0.0999}, found_of())[0]
    assert close["message"].startswith("held_out_drop 0.1000 > 0.0999 FAILED")


def test_numbers_show_on_which_side_of_the_limit_they_lie():
    assert apart(0.3, 0.12) == ("0.300", "0.120")
    assert apart(0.01004, 0.01) == ("0.01004", "0.01000")
    assert apart(0.02, 0.0125) == ("0.0200", "0.0125")  # the limit is never rounded
    assert apart(0.1 + 0.2, 0.3) == ("0.300", "0.300")
    assert apart(-1e-8, 0.05) == ("0.000", "0.050")


def test_few_perfect_questions_do_not_pass_the_interval_rule():
    """One task, two questions, both right: Wilson's lower end of 2 in 2 is 2 / (2 + z^2) = 0.342."""
    lines = {"00-base": answered(None, "a", 0, n=2), "01-a": answered(None, "a", 2, n=2)}
    found = numbers(["a"], [], POINTS[:2], lines, True)
    assert found["intervals"]["metrics"]["learning_accuracy"] == statistics.wilson(2, 2)
    assert found["intervals"]["metrics"]["average_accuracy"] == statistics.wilson(2, 2)
    assert found["intervals"]["metrics"]["forgetting"] is None
    verdict = check_gates({"learning_accuracy": SimpleNamespace(limit=0.9, rule="interval")}, found)[0]
    assert verdict["reason"] == (
        "a reached 1.000; the interval holds the limit: about 87 questions a task would tell if the value stays (2 now)"
    )
    assert not verdict["passed"] and verdict["interval"][0] == pytest.approx(2 / (2 + statistics.Z**2))


def test_the_interval_of_one_tasks_difference_is_that_of_its_column():
    found = found_of()
    tango = statistics.tango(6, 0, 10)  # a: 10 of 10 right, then 4
    assert found["intervals"]["forgetting_by_task"]["a"] == found["intervals"]["metrics"]["forgetting"] == tango
    low, high = found["intervals"]["metrics"]["backward_transfer"]
    assert (-high, -low) == pytest.approx(tango)
    assert found["intervals"]["metrics"]["forward_transfer"] == statistics.tango(1, 0, 10)  # b: 0 of 10, then 1


def test_a_mean_over_tasks_keeps_a_width_where_all_answers_are_alike():
    """Three tasks, two questions each, all right from the start: the bootstrap would say 1.00 [1.00, 1.00]."""
    tasks, points = ["a", "b", "c"], [*POINTS, "03-c"]
    lines = {point: [each for task in tasks for each in answered(None, task, 2, n=2)] for point in points}
    found = numbers(tasks, [], points, lines, True)["intervals"]["metrics"]
    z2 = statistics.Z**2
    miss = z2 / (2 + z2)  # 1 - Wilson's lower end, and Tango's ends of no change in 2 pairs
    assert found["learning_accuracy"] == pytest.approx((1 - miss / 3**0.5, 1))  # sqrt(3 miss^2) / 3
    assert found["forgetting"] == pytest.approx((-miss / 2**0.5, miss / 2**0.5))  # two tasks: sqrt(2 miss^2) / 2
    assert found["backward_transfer"] == found["forward_transfer"] == found["forgetting"]


def test_two_answers_to_one_row_are_noticed():
    lines = stream()
    lines["00-base"].append(line(None, "a", 0, 1.0))
    with pytest.raises(AssertionError, match="a: two questions have the row id 'a/0'"):
        found_of(lines)


def test_nothing_lost_is_said_so():
    verdict = check_gates({"forgetting": 0.1}, found_of(a=(0, 9, 10)))[0]
    assert verdict["passed"] and verdict["value"] == pytest.approx(-0.1)
    assert verdict["message"].endswith("nothing was lost")


def test_the_worst_suite_decides():
    lines = stream()
    for i, point in enumerate(POINTS):
        lines[point] += answered("safety", "s", (10, 9, 3)[i])
    found = numbers(["a", "b"], ["general", "safety"], POINTS, lines, True)
    verdict = check_gates({"held_out_drop": 0.3}, found)[0]
    assert verdict["value"] == pytest.approx(0.7)
    assert verdict["reason"].startswith("safety lost 0.700 (1.000 -> 0.300), general lost 0.100")
