"""The statistics of `cpt compare` against scipy, and by simulation: false alarms, coverage, power."""

import numpy as np
import pytest
from scipy import stats

from cpt.comparison import inference
from cpt.comparison.inference import difference, group_estimate, holm, mcnemar, sign_flip


@pytest.mark.parametrize("better, worse", [(0, 0), (1, 0), (0, 5), (7, 7), (12, 3), (40, 61), (300, 240)])
def test_mcnemar_is_the_exact_binomial(better, worse):
    expected = stats.binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
    assert mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)


def scipy_sign_flip(changes) -> float:
    """scipy's permutation test of all flips; the mean over strata as the statistic."""
    sizes = [len(each) for each in changes]
    weights = np.concatenate([np.full(size, 1 / (len(sizes) * size)) for size in sizes])
    values = np.concatenate(changes)

    def statistic(first, second, axis=-1):
        return ((first - second) * weights).sum(axis)

    tested = (values, np.zeros_like(values))
    return stats.permutation_test(
        tested, statistic, permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("binary", [True, False])
def test_sign_flip_is_the_permutation_test(seed, binary):
    rng = np.random.default_rng(seed)
    sizes = (5, 7)
    changes = [rng.integers(-1, 2, size).astype(float) if binary else rng.normal(0.4, 1, size) for size in sizes]
    assert sign_flip(changes) == pytest.approx(scipy_sign_flip(changes), rel=1e-9)


def test_drawn_flips_agree_with_all_of_them(monkeypatch):
    rng = np.random.default_rng(3)
    changes = [rng.normal(0.3, 1, 12), rng.normal(0.1, 1, 4)]
    exact = sign_flip(changes)
    monkeypatch.setattr(inference, "ENUMERATED", 0)
    assert 0.01 < exact < 0.9 and sign_flip(changes) == pytest.approx(exact, abs=4 * np.sqrt(exact / inference.DRAWS))


def test_sign_flip_of_right_and_wrong_is_mcnemar():
    changes = np.array([1.0] * 12 + [-1.0] * 3 + [0.0] * 40)
    assert sign_flip([changes]) == pytest.approx(mcnemar(12, 3), rel=1e-9)
    assert sign_flip([np.zeros(9)]) == 1.0


def test_seeds_alone_are_the_t_test():
    """Where all questions of a seed change alike, only seeds vary: scipy's t-tests."""
    first, second = np.array([0.7, 0.8, 0.75, 0.9]), np.array([0.6, 0.65, 0.7, 0.72])

    def spread(means):
        return [np.repeat(means[:, None], 10, axis=1)]

    pairs = [(i, i) for i in range(4)]
    paired = difference(spread(first), spread(second), pairs)
    assert paired.p == pytest.approx(max(stats.ttest_rel(first, second).pvalue, 2 / 2**10), rel=1e-6)
    assert paired.seeds == pytest.approx(first - second)
    welch = stats.ttest_ind(first, second, equal_var=False)
    free = difference(spread(first), spread(second))
    assert free.p == pytest.approx(welch.pvalue, rel=1e-6)
    low, high = welch.confidence_interval()
    assert free.interval[0] <= low + 1e-9 and free.interval[1] >= high - 1e-9


def test_holm_against_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.6, 0.7]) == [1.0, 1.0]


def test_the_bootstrap_of_few_values_is_that_of_questions():
    values = np.array([0.0] * 30 + [1.0] * 70)
    drawn = inference.drawn_means(values, np.random.default_rng(0))
    expected = inference.resampled_means(values[None], np.random.default_rng(0))[:, 0]
    assert drawn.mean() == pytest.approx(expected.mean(), abs=0.005)
    assert drawn.std() == pytest.approx(expected.std(), rel=0.08)


def made_group(rng, chances: list[np.ndarray], seeds: int, spread: float, loss: float = 0.0) -> list[np.ndarray]:
    """(seeds, n) answers of each task: every seed has its own luck on each task, of deviation `spread`."""
    luck = rng.normal(0, spread, size=(seeds, len(chances)))
    return [
        (rng.random((seeds, len(each))) < np.clip(each + luck[:, [k]] - loss, 0, 1)).astype(float)
        for k, each in enumerate(chances)
    ]


def is_significant(estimate) -> bool:
    return estimate.p <= 0.05 and not estimate.interval[0] <= 0 <= estimate.interval[1]


def rates(trials: int, questions: int, seeds: int, spread: float, loss: float, tasks: int = 4) -> tuple[float, float]:
    """(how often a difference is called, how often the interval has the true one), of pairs of groups."""
    rng, called, covered = np.random.default_rng(0), 0, 0
    for _ in range(trials):
        chances = [rng.beta(8, 1.5, questions) for _ in range(tasks)]
        first, second = (made_group(rng, chances, seeds, spread, each) for each in (loss, 0.0))
        true = np.mean([np.clip(each - loss, 0, 1).mean() - each.mean() for each in chances])
        found = difference(first, second, [(i, i) for i in range(seeds)] if seeds > 1 else [])
        called += is_significant(found)
        covered += found.interval[0] <= true <= found.interval[1]
    return called / trials, covered / trials


def test_few_false_alarms_in_2000_pairs():
    """At most 5 % by the truth; of 2,000 pairs the share has a standard error of half a point."""
    alarms, covered = rates(2000, 50, 1, 0.0, 0.0)
    assert alarms <= 0.05 and covered >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("questions", [50, 200])
@pytest.mark.parametrize("seeds, spread", [(1, 0.0), (3, 0.0), (3, 0.03)])
def test_false_alarms_and_coverage(questions, seeds, spread):
    alarms, covered = rates(2000, questions, seeds, spread, 0.0)
    assert alarms <= 0.05 and covered >= 0.93


def test_a_loss_of_three_points_is_seen():
    """Of 4 tasks with 1,000 questions each, in four of five comparisons."""
    power, covered = rates(60, 1000, 1, 0.0, 0.03)
    assert power >= 0.8 and covered >= 0.85


def test_questions_alone_do_not_vouch_for_seeds():
    """With luck of three points a seed, single runs differ often; groups of three seeds are rarely called different."""
    single, _ = rates(150, 400, 1, 0.06, 0.0, tasks=1)
    several, _ = rates(150, 400, 3, 0.06, 0.0, tasks=1)
    assert single > 0.3 and several < 0.1


@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("questions", [50, 200])
def test_the_interval_of_a_group_covers(accuracy, questions):
    rng, covered = np.random.default_rng(1), 0
    for _ in range(300):
        scores = [(rng.random((1, questions)) < accuracy).astype(float) for _ in range(4)]
        low, high = group_estimate(scores).interval
        covered += low <= accuracy <= high
    assert covered / 300 >= 0.93
