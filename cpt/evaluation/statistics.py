"""95 % intervals: Wilson for one accuracy, Tango's score interval for a paired difference, bootstrap and MOVER for means.

The questions are what is random: the interval says how far the numbers could move with other questions of the same
kind. It says nothing about another training seed. The Wald interval is not used anywhere: at accuracies near 0 and 1,
where most of ours lie, it is far too short (Wilson 1927; Newcombe 1998, Statistics in Medicine 17:857). A bootstrap
alone is not used either: of questions that all came out alike it draws only such, and its interval has no width.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959963984540054  # the normal quantile of a two-sided 95 % interval
REPLICATES = 2000
SPLITS = 200
SEED = 0  # intervals never depend on the training seed
BLOCK = 4_000_000  # resampled questions held in memory at once


def quantile(families: int) -> float:
    """The normal quantile at which `families` two-sided intervals hold together 95 % of the time (Bonferroni)."""
    from scipy.stats import norm

    return Z if families == 1 else float(norm.isf(0.025 / families))


def wilson(successes: float, n: int, z: float = Z) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927), in closed form. `n` >= 1."""
    p, shrink = successes / n, 1 + z**2 / n
    centre = (p + z**2 / (2 * n)) / shrink
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / shrink
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def interval(scores: ArrayLike) -> tuple[float, float]:
    """The interval of the mean of `scores`, (n) in [0, 1], n >= 1: Wilson where all are 0 or 1, else bootstrap."""
    scores = np.asarray(scores, float)
    return wilson(scores.sum(), len(scores)) if is_binary(scores) else mean_interval(scores, 0.0, 1.0)


def paired_difference(first: ArrayLike, second: ArrayLike, z: float = Z) -> tuple[float, float]:
    """The interval of mean(first) - mean(second), both (n) scores in [0, 1] of the same questions in the same order.

    Tango's score interval where all scores are 0 or 1, else a bootstrap over the questions. `z` is the normal quantile.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    assert first.shape == second.shape, "paired scores must be of the same questions"
    if is_binary(first) and is_binary(second):
        return tango(int((first > second).sum()), int((first < second).sum()), len(first), z)
    return mean_interval(first - second, -1.0, 1.0, z)


def tango(b: int, c: int, n: int, z: float = Z) -> tuple[float, float]:
    """The score interval of a difference of paired proportions, (b - c) / n.

    Tango 1998, Statistics in Medicine 17:891. Of n pairs, b are right only the first time and c only the second time.
    Unlike Wald's it has a width where b = c = 0, and never leaves [-1, 1].
    """
    return -_tango_upper(c, b, n, z), _tango_upper(b, c, n, z)


def _tango_upper(b: int, c: int, n: int, z: float) -> float:
    """The largest difference d that the score test does not reject: (b - c - n d)^2 = z^2 n (2 q + d (1 - d))."""
    from scipy.optimize import brentq

    def rejected(d: float) -> float:
        linear, constant = -b - c + (2 * n - b + c) * d, -c * d * (1 - d)
        root = np.sqrt(max(0.0, linear**2 - 8 * n * constant))
        q = (root - linear) / (4 * n)  # the likeliest P(only the second is right), given d
        return (b - c - n * d) ** 2 - z**2 * n * (2 * q + d * (1 - d))

    low = (b - c) / n + 1e-9  # just above the estimate, where the test does not reject
    return 1.0 if low >= 1 else float(brentq(rejected, low, 1.0, xtol=1e-12))


def mover(values: Sequence[float], ends: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The interval of the mean of independent `values` from the interval of each, by square and add (MOVER).

    Zou and Donner 2008, Statistics in Medicine 27:1693: of k values, the ends lie sqrt(sum_i (v_i - l_i)^2) / k below
    and sqrt(sum_i (u_i - v_i)^2) / k above their mean. Of one value it is that value's own interval.
    """
    values, ends = np.asarray(values, float), np.asarray(ends, float)
    below, above = (np.sqrt(((values - end) ** 2).sum()) / len(values) for end in ends.T)
    return float(values.mean() - below), float(values.mean() + above)


def wider(*intervals: tuple[float, float]) -> tuple[float, float]:
    """On each side the end that lies farther out."""
    lows, highs = zip(*intervals, strict=True)
    return min(lows), max(highs)


def is_binary(scores: np.ndarray) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def mean_interval(values: np.ndarray, least: float, most: float, z: float = Z) -> tuple[float, float]:
    """Percentile bootstrap of the mean of `values`, (n) in [least, most], and wide enough for what was not seen.

    Of n questions none was of an unseen kind, so such may be q = z^2 / (n + z^2) of all (Wilson's upper end of 0 in n).
    If they score `least` or `most`, the mean is (1 - q) mean + q least, or (1 - q) mean + q most. Where all `values` are
    0 this is Tango's interval of no change.
    """
    drawn = percentiles(resampled_means(values[None], np.random.default_rng(SEED)), z)
    mean, q = float(values.mean()), z**2 / (len(values) + z**2)
    return wider(drawn, (mean + q * (least - mean), mean + q * (most - mean)))


def bootstrap(
    scores: Sequence[ArrayLike], statistics: Mapping[str, Callable[[np.ndarray], np.ndarray | None]]
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of statistics of the accuracy matrix, over the questions only.

    `scores[i]` is (T+1, n_i): the questions of task i, the same in every row. They are drawn again within each task, and
    all rows share the draw (paired). Each statistic takes replicates (REPLICATES, T+1, T); one that is None stays None.
    """
    rng = np.random.default_rng(SEED)
    replicates = np.stack([resampled_means(np.asarray(each, float), rng) for each in scores], axis=-1)
    values_of = {name: statistic(replicates) for name, statistic in statistics.items()}
    return {name: None if values is None else percentiles(values) for name, values in values_of.items()}


def resampled_means(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(REPLICATES, rows): the means of every row of `scores` (rows, n) over n questions drawn with replacement."""
    n = scores.shape[1]
    means = []
    for start in range(0, REPLICATES, block := max(1, BLOCK // n)):
        count = min(block, REPLICATES - start)
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)  # how often each question was drawn
        means.append(times @ scores.T / n)
    return np.concatenate(means)


def percentiles(values: np.ndarray, z: float = Z) -> tuple[float, float]:
    from scipy.stats import norm

    tail = 2.5 if z == Z else float(100 * norm.sf(z))
    low, high = np.percentile(values.ravel(), (tail, 100 - tail))
    return float(low), float(high)


def largest_difference(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> tuple[float, float]:
    """The interval of the largest of several differences, each of scores of the same questions (`paired_difference`).

    Which one is the largest is chosen by the data. So the lower end is the largest of the lower ends of intervals that hold
    together (Bonferroni): the largest of m differences that are truly 0 exceeds 0 in at most 2.5 % of cases. The upper end is
    the largest of the upper ends, which needs no such care.
    """
    z = quantile(len(pairs))
    low = max(paired_difference(first, second, z)[0] for first, second in pairs)
    return low, max(paired_difference(first, second)[1] for first, second in pairs)


def halves(n: int) -> np.ndarray:
    """(SPLITS, n) of 0 and 1: which questions of n are in the first half of a random split; the same each time."""
    rng = np.random.default_rng(SEED)
    first = np.zeros((SPLITS, n))
    first[:, : n // 2] = 1
    return rng.permuted(first, axis=1)


def chosen_on_halves(differences: Sequence[Sequence[np.ndarray]]) -> tuple[float, ...] | None:
    """What is left of a largest difference where it is chosen by half of the questions and measured by the other half.

    `differences[i][c]` (n_i) is candidate c of task i: the differences of its questions. For each task the candidate with the
    largest mean is chosen. The mean over random splits has no upward bias from the choice, unlike the largest mean itself
    (of T rows that are truly alike the largest lies above their mean). Returned for each task; None if one has one question.
    """
    left = []
    for candidates in differences:
        values = np.stack(candidates)  # (candidates, n)
        n = values.shape[1]
        if len(values) == 1:  # no choice
            left.append(float(values.mean()))
            continue
        if n < 2:
            return None
        first = halves(n)
        chosen = (values @ first.T).argmax(0)  # (SPLITS)
        other = values @ (1 - first).T / (n - n // 2)
        left.append(float(other[chosen, np.arange(SPLITS)].mean()))
    return tuple(left)
