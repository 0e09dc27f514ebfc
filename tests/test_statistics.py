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
    low, high = statistics.interval([0.5] * 30 + [0.7] * 30)
    assert low == pytest.approx(0.6 - 1.96 * 0.1 / 60**0.5, abs=0.004)
    assert high == pytest.approx(0.6 + 1.96 * 0.1 / 60**0.5, abs=0.004)


def test_a_paired_difference_uses_the_pairs():
    first, second = [1, 1, 1, 0, 0, 1], [1, 0, 0, 0, 1, 1]
    assert statistics.paired_difference(first, second) == statistics.tango(2, 1, 6)
    parts = np.linspace(0, 0.8, 40)
    assert statistics.paired_difference(parts + 0.1, parts) == pytest.approx((0.1, 0.1))  # always better by 0.1


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
