"""Metrics of a stream, against numbers worked out by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpt.evaluation import metrics

# rows: base, after 1, after 2, after 3; columns: tasks 1 to 3
R = [
    [0.9, 0.2, 0.1],
    [0.8, 0.3, 0.0],
    [0.85, 0.7, 0.4],
    [0.5, 0.6, 0.9],
]


def test_a_hand_worked_matrix():
    wanted = {
        "average_accuracy": (0.5 + 0.6 + 0.9) / 3,
        "learning_accuracy": (0.8 + 0.7 + 0.9) / 3,
        "backward_transfer": ((0.5 - 0.8) + (0.6 - 0.7)) / 2,
        "forward_transfer": ((0.3 - 0.2) + (0.4 - 0.1)) / 2,
        "forgetting": ((0.85 - 0.5) + (0.7 - 0.6))
        / 2,  # task 1: its best is after task 2, not the 0.9 before its training
    }
    summary = metrics.summary(R)
    assert {name: summary[name] for name in wanted} == pytest.approx(wanted)


def test_forgetting_leaves_out_the_base_and_the_last_row():
    kept = [[1.0, 1.0], [0.5, 0.0], [0.9, 1.0]]  # better at the end than right after training
    assert metrics.forgetting(kept) == pytest.approx(-0.4)
    assert metrics.backward_transfer(kept) == pytest.approx(0.4)


def test_losses_by_task_and_the_rows_they_count_from():
    assert metrics.forgetting_by_task(R).tolist() == pytest.approx([0.35, 0.1])
    assert metrics.best_rows(R) == [2, 2]
    assert metrics.drop([0.99, 0.5, 0.9]) == pytest.approx(0.09)


def test_one_task_has_neither_transfer_nor_forgetting():
    summary = metrics.summary([[0.1], [0.8]])
    assert summary["average_accuracy"] == summary["learning_accuracy"] == 0.8
    assert {summary[name] for name in ("backward_transfer", "forward_transfer", "forgetting")} == {None}
    assert metrics.best_rows([[0.1], [0.8]]) == []


def test_leading_axes_pass_through():
    many = np.random.default_rng(0).random((7, 5, 4))
    for name, metric in metrics.METRICS.items():
        assert metric(many).tolist() == pytest.approx([metrics.summary(each)[name] for each in many])


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_counts_subsets(drawn):
    n, c, k = drawn
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    assert metrics.pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_is_stable_where_binomials_overflow():
    assert metrics.pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)
    assert metrics.pass_at_k(10_000, 0, 5_000) == 0.0
    with pytest.raises(AssertionError):
        metrics.pass_at_k(4, 1, 5)


@given(st.integers(1, 5).flatmap(lambda T: st.tuples(st.just(T), st.integers(0, 2**32 - 1))))
def test_every_metric_is_the_mean_of_its_parts(drawn):
    T, seed = drawn
    matrix = np.random.default_rng(seed).random((T + 1, T))
    for name, value in metrics.summary(matrix).items():
        parts = metrics.parts(matrix, metrics.METRICS[name])
        values = [matrix[row, i] - (0 if minus is None else matrix[minus, i]) for i, row, minus in parts]
        assert value == pytest.approx(np.mean(values)) if values else value is None


@given(st.integers(1, 8).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, 5), st.integers(0, 2**32 - 1))))
def test_the_parts_of_each_metric(drawn):
    """Few questions: many accuracies are equal, and of those the first row is the best one."""
    T, questions, seed = drawn
    matrix = np.random.default_rng(seed).integers(questions + 1, size=(T + 1, T)) / questions
    wanted = {
        "average_accuracy": [(i, T, None) for i in range(T)],
        "learning_accuracy": [(i, i + 1, None) for i in range(T)],
        "backward_transfer": [(i, T, i + 1) for i in range(T - 1)],
        "forward_transfer": [(i, i, 0) for i in range(1, T)],
        "forgetting": [(i, best, T) for i, best in enumerate(metrics.best_rows(matrix))],
    }
    assert {name: metrics.parts(matrix, metrics.METRICS[name]) for name in wanted} == wanted


@pytest.mark.parametrize(
    "metric",
    [
        lambda R: R[..., -1, :].prod(-1),  # no mean
        lambda R: R[..., -1, :].mean(-1) * 2,  # more than a mean
        lambda R: R[..., -1, 0] + R[..., -2, 0],  # two rows of one task
        lambda R: R[..., -1, 0] * 0 + 0.5,  # nothing
        lambda R: None,
    ],
)
def test_what_is_no_mean_has_no_parts(metric):
    assert metrics.parts(R, metric) == []
