"""Differences between two groups of runs on the same questions: intervals, tests, and Holm's correction.

A *stratum* is a task: an array (S, n) of the values of S seeds on n questions. A measure is the mean over strata of their
means. Two things vary: the questions, and, where a group has several seeds, the training.

Questions: the sign-flip test (Fisher 1935; of right and wrong answers in one stratum it is the exact McNemar test), and
intervals as in `cpt.evaluation.statistics`. Seeds and questions together are crossed random effects, so the variance of the
difference is at most the sum of both parts, V = V_questions + V_seeds (Owen 2007, "The pigeonhole bootstrap", 0712.1111);
the interval is Student's t with Satterthwaite's degrees of freedom. What both parts share is counted twice, which errs on
the side of saying nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, gammaln, stdtr, stdtrit

from cpt.evaluation.statistics import (
    REPLICATES,
    SEED,
    interval,
    mean_interval,
    mover,
    paired_difference,
    percentiles,
    resampled_means,
    wider,
)

Strata = Sequence[np.ndarray]
Interval = tuple[float, float]
ENUMERATED = 200_000  # sums of sign flips that are worked out; where there are more, DRAWS are drawn
DRAWS = 10_000
FEW = 50  # distinct values
BLOCK = 2_000_000  # signs held in memory at once
TIE = 1e-9  # sums that are equal but for rounding
CERTAIN = 1e-300  # a variance below this is zero


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval, and the mean of each seed. Of a difference, `p` is of the hypothesis that it is 0."""

    value: float
    interval: Interval
    seeds: tuple[float, ...]
    p: float | None = None


def group_estimate(strata: Strata) -> Estimate:
    """The mean of one group's scores; the interval covers other questions and, of several seeds, other seeds too."""
    means = [each.mean(0) for each in strata]
    seeds = macro(strata)
    ends = [interval(each) for each in means]
    over_questions = ends[0] if len(means) == 1 else wider(drawn(means), mover([each.mean() for each in means], ends))
    value, variance = float(seeds.mean()), variance_of_mean(seeds)
    both = over_questions if variance is None else wider(over_questions, t_interval(value, means, *variance))
    return Estimate(value, (max(0.0, both[0]), min(1.0, both[1])), tuple(seeds.tolist()))


def difference(first: Strata, second: Strata, pairs: Sequence[tuple[int, int]] = ()) -> Estimate:
    """Mean of `first` less mean of `second`: arrays (S1, n) and (S2, n) for each stratum, the questions in one order.

    `pairs` are the (row of first, row of second) of seeds that both have, where all are in both; `seeds` of the result are
    then their differences. Without them the seeds are independent. Where no group has several seeds, nothing is known of
    other seeds, and interval and p are about these very models.
    """
    changes = [one.mean(0) - two.mean(0) for one, two in zip(first, second, strict=True)]
    single = all(len(each) == 1 for each in (*first, *second))
    over_questions = difference_interval(changes, *((first, second) if single else (None, None)))
    p = sign_flip(changes)
    ones, twos = macro(first), macro(second)
    value = float(ones.mean() - twos.mean())
    by_seed = tuple(float(ones[i] - twos[j]) for i, j in pairs)
    variance = variance_of_mean(np.array(by_seed)) if pairs else variance_of_two(ones, twos)
    if variance is None:
        return Estimate(value, over_questions, by_seed, p)
    both = wider(over_questions, t_interval(value, changes, *variance))
    return Estimate(value, both, by_seed, max(p, t_test(value, changes, *variance)))


def macro(strata: Strata) -> np.ndarray:
    """(S): the mean over strata of each seed's means."""
    return np.mean([each.mean(1) for each in strata], axis=0)


# -- questions -----------------------------------------------------------------------------------------------------------


def difference_interval(changes: Sequence[np.ndarray], first: Strata | None, second: Strata | None) -> Interval:
    """The interval of the mean over strata of `changes`, (n) each; where the scores of single runs are given, by Tango's."""
    if first is None or second is None:
        ends = [mean_interval(each, -1.0, 1.0) for each in changes]
    else:
        ends = [
            paired_difference(one[0], two[0]) if in_unit(one) and in_unit(two) else mean_interval(each, -1.0, 1.0)
            for one, two, each in zip(first, second, changes, strict=True)
        ]
    return (
        ends[0] if len(changes) == 1 else wider(drawn(changes), mover([float(each.mean()) for each in changes], ends))
    )


def in_unit(scores: np.ndarray) -> bool:
    return bool(scores.min() >= 0 and scores.max() <= 1)


def drawn(values: Sequence[np.ndarray]) -> Interval:
    """The percentile bootstrap of the mean over strata of their means, the questions drawn again in each stratum."""
    rng = np.random.default_rng(SEED)
    return percentiles(np.mean([drawn_means(each, rng) for each in values], axis=0))


def drawn_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(REPLICATES): means of n values drawn with replacement. Of few distinct values only their counts are drawn."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > FEW:
        return resampled_means(values[None], rng)[:, 0]
    return rng.multinomial(len(values), counts / len(values), size=REPLICATES) @ distinct / len(values)


def mcnemar(better: int, worse: int) -> float:
    """The exact two-sided McNemar test: of the questions that differ, as many are better as worse (a binomial of 1/2)."""
    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))


def sign_flip(changes: Sequence[np.ndarray]) -> float:
    """The two-sided p that the mean over strata of mean changes is 0: each question's change has either sign alike.

    Exact where the sums of all flips can be worked out (questions of one stratum that changed by as much are exchangeable);
    else by DRAWS flips, as (1 + as large ones) / (1 + DRAWS).
    """
    scaled = np.concatenate([each / (len(changes) * len(each)) for each in changes])
    observed = abs(scaled.sum())
    sizes, counts = np.unique(np.abs(scaled[np.abs(scaled) > TIE / len(scaled)]).round(14), return_counts=True)
    if observed <= TIE or not len(sizes):
        return 1.0
    if np.prod(counts + 1.0) <= ENUMERATED:
        sums, chances = np.zeros(1), np.ones(1)
        for size, count in zip(sizes, counts, strict=True):
            heads = np.arange(count + 1)
            weights = np.exp(gammaln(count + 1) - gammaln(heads + 1) - gammaln(count - heads + 1) - count * np.log(2))
            sums = np.add.outer(sums, size * (2 * heads - count)).ravel()
            chances = np.multiply.outer(chances, weights).ravel()
        return min(1.0, float(chances[np.abs(sums) >= observed - TIE].sum()))
    rng, larger = np.random.default_rng(SEED), 0
    block = max(1, BLOCK // len(sizes))
    for start in range(0, DRAWS, block):
        heads = rng.binomial(counts, 0.5, size=(min(block, DRAWS - start), len(sizes)))
        larger += int((np.abs((2 * heads - counts) @ sizes) >= observed - TIE).sum())
    return (1 + larger) / (1 + DRAWS)


# -- seeds and questions -------------------------------------------------------------------------------------------------


def variance_of_mean(values: np.ndarray) -> tuple[float, float] | None:
    """(variance of the mean of independent values, its degrees of freedom); None of fewer than two."""
    return None if len(values) < 2 else (float(values.var(ddof=1)) / len(values), len(values) - 1.0)


def variance_of_two(first: np.ndarray, second: np.ndarray) -> tuple[float, float] | None:
    """The same of mean(first) - mean(second), independent: Welch's, or with one value on a side the other side's variance."""
    one, two = variance_of_mean(first), variance_of_mean(second)
    if one and two:
        return one[0] + two[0], satterthwaite([one, two])
    several = first if one else second if two else None
    if several is None:
        return None
    return float(several.var(ddof=1)) * (1 / len(first) + 1 / len(second)), len(several) - 1.0


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances (variance, degrees of freedom)."""
    shrunk = sum(variance**2 / freedom for variance, freedom in parts)
    return sum(variance for variance, _ in parts) ** 2 / shrunk if shrunk > CERTAIN else np.inf


def whole_variance(values: Sequence[np.ndarray], seeds: float, freedom: float) -> tuple[float, float]:
    """(variance, degrees of freedom) of the mean over strata, of questions and seeds together."""
    k = len(values)
    parts = [(float(each.var(ddof=1)) / len(each) / k**2, len(each) - 1.0) for each in values if len(each) > 1]
    parts.append((seeds, freedom))
    return sum(variance for variance, _ in parts), satterthwaite(parts)


def t_interval(value: float, values: Sequence[np.ndarray], seeds: float, freedom: float) -> Interval:
    variance, degrees = whole_variance(values, seeds, freedom)
    half = float(stdtrit(min(degrees, 1e9), 0.975) * np.sqrt(variance))
    return value - half, value + half


def t_test(value: float, values: Sequence[np.ndarray], seeds: float, freedom: float) -> float:
    variance, degrees = whole_variance(values, seeds, freedom)
    if variance <= CERTAIN:
        return 1.0 if abs(value) <= TIE else 0.0
    return 2 * float(stdtr(min(degrees, 1e9), -abs(value) / np.sqrt(variance)))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p values of tests of one family: a test is significant where its own is at most .05 (Holm 1979)."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda each: ps[each])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted
