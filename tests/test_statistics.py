"""Intervals, against published worked examples, scipy, and simulated coverage."""

import numpy as np
import pytest
from scipy.stats import binomtest

from cpt.evaluation import metrics, statistics


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (97, 100), (1, 3), (150, 400)])
def test_wilson_is_scipys(right, n):
    reference = binomtest(right, n).proportion_ci(method="wilson")
    assert statistics.wilson(right, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize(
    ("b", "c", "n", "ends"),
    [
        # Fagerland, Lydersen and Laake, Recommended tests and confidence intervals for paired binomial proportions,
        # Statistics in Medicine 2014: airway hyper-responsiveness (Bentur 2009), and complete response (Cavo 2012; four
        # decimals from the authors' R package contingencytables)
        (1, 7, 21, (-0.517, -0.026)),
        (6, 16, 161, (-0.1240, -0.0054)),
    ],
)
def test_tango_gives_the_published_intervals(b, c, n, ends):
    assert statistics.tango(b, c, n) == pytest.approx(ends, abs=5e-4 if n == 21 else 5e-5)


def test_tango_at_the_edges():
    z2 = statistics.Z**2
    assert statistics.tango(0, 0, 50) == pytest.approx(
        (-z2 / (50 + z2), z2 / (50 + z2))
    )  # by hand: n d^2 = z^2 d (1 - d)
    assert statistics.tango(20, 0, 20)[1] == 1.0
    for n in (1, 2, 7):
        for b in range(n + 1):
            for c in range(n + 1 - b):
                low, high = statistics.tango(b, c, n)
                assert -1 <= low <= (b - c) / n <= high <= 1
                assert statistics.tango(c, b, n) == pytest.approx((-high, -low))


def test_tango_covers():
    """Of many samples of 60 pairs, the interval holds the true difference in about 95 %."""
    rng = np.random.default_rng(1)
    cells = rng.multinomial(60, [0.15, 0.05, 0.8], size=400)
    held = [low <= 0.10 <= high for low, high in (statistics.tango(b, c, 60) for b, c, _ in cells)]
    assert 0.92 <= np.mean(held) <= 0.98


def test_one_score_takes_the_method_that_fits():
    assert statistics.interval([1.0] * 9 + [0.0]) == statistics.wilson(9, 10)
    low, high = statistics.interval([0.3] * 30 + [0.9] * 30)
    assert low == pytest.approx(0.6 - 1.96 * 0.3 / 60**0.5, abs=0.008)
    assert high == pytest.approx(0.6 + 1.96 * 0.3 / 60**0.5, abs=0.008)


def test_alike_scores_between_0_and_1_keep_a_width():
    """By hand: of 2 questions q = 3.8415 / 5.8415 = 0.6576 may be of an unseen kind, and score 0 or 1."""
    assert statistics.interval([0.5, 0.5]) == pytest.approx((0.5 - 0.3288, 0.5 + 0.3288), abs=1e-4)
    same = statistics.paired_difference([0.5] * 50, [0.5] * 50)
    assert same == pytest.approx(statistics.tango(0, 0, 50))


def test_a_paired_difference_uses_the_pairs():
    first, second = [1, 1, 1, 0, 0, 1], [1, 0, 0, 0, 1, 1]
    assert statistics.paired_difference(first, second) == statistics.tango(2, 1, 6)
    parts = np.linspace(0, 0.8, 40)
    q = statistics.Z**2 / (40 + statistics.Z**2)
    always = statistics.paired_difference(parts + 0.1, parts)  # better by 0.1; the unseen by 1 or worse by 1
    assert always == pytest.approx((0.1 - 1.1 * q, 0.1 + 0.9 * q))


def test_mover_by_hand():
    """Two values: below sqrt(0.1^2 + 0.2^2) / 2, above sqrt(0.05^2 + 0.1^2) / 2 of their mean 0.7."""
    found = statistics.mover([0.8, 0.6], [(0.7, 0.85), (0.4, 0.7)])
    assert found == pytest.approx((0.7 - 0.111803, 0.7 + 0.055902), abs=1e-6)
    assert statistics.mover([0.9], [(0.5, 0.95)]) == pytest.approx((0.5, 0.95))
    assert statistics.wider((0.1, 0.4), (0.2, 0.5)) == (0.1, 0.5)


def test_mover_covers():
    """Of the mean of three accuracies with 20 questions each, where the bootstrap is short."""
    rng = np.random.default_rng(2)
    p = np.array([0.99, 0.95, 0.8])
    right = rng.binomial(20, p, size=(2000, 3))
    ends = [statistics.mover(each / 20, [statistics.wilson(k, 20) for k in each]) for each in right]
    assert 0.93 <= np.mean([low <= p.mean() <= high for low, high in ends]) <= 0.98


def test_bootstrap_is_paired_over_rows_and_stable_over_calls():
    rng = np.random.default_rng(3)
    base = rng.integers(0, 2, 100)
    same = [np.stack([base, base, base])] * 2
    found = statistics.bootstrap(same, metrics.METRICS)
    assert found["forgetting"] == found["backward_transfer"] == (0.0, 0.0)  # rows are equal on whatever is drawn
    assert found["learning_accuracy"][0] < base.mean() < found["learning_accuracy"][1]
    assert found == statistics.bootstrap(same, metrics.METRICS)
    assert statistics.bootstrap([np.stack([base, base])], metrics.METRICS)["forgetting"] is None


def test_bootstrap_has_the_width_that_theory_gives():
    """A mean over two tasks of 400 questions each: the standard error is sqrt(p (1 - p) / 800)."""
    rng = np.random.default_rng(5)
    scores = [(rng.random((3, 400)) < 0.7).astype(float) for _ in range(2)]
    low, high = statistics.bootstrap(scores, metrics.METRICS)["average_accuracy"]
    p = np.mean([each[-1].mean() for each in scores])
    assert high - low == pytest.approx(2 * 1.96 * (p * (1 - p) / 800) ** 0.5, rel=0.1)
    assert low < p < high


def test_resampling_in_blocks_draws_the_right_number(monkeypatch):
    monkeypatch.setattr(statistics, "BLOCK", 3000)
    means = statistics.resampled_means(np.array([[0.0, 1.0] * 4]), np.random.default_rng(0))
    assert means.shape == (statistics.REPLICATES, 1)
    assert means.mean() == pytest.approx(0.5, abs=0.02)
    assert set(np.unique(means * 8)) <= set(range(9))
