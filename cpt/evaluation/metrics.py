"""Metrics of a stream, as pure functions of the accuracy matrix.

`R` is (..., T+1, T): row 0 is the untouched model, row t the model after task t, columns are the tasks in order.
Leading axes (bootstrap replicates) pass through. In the formulas tasks count from 1, as in the papers.

Forgetting is Chaudhry's (1801.10112), but its maximum begins where the task was learnt (l from i, not from 1): what a
model could do before it was taught is not credited to the teaching. The maximum never includes the last row, so
forgetting can be negative. Backward and forward transfer are those of Lopez-Paz and Ranzato (1706.08840), with row 0 as
the baseline.

A new metric is its function here, and its entry in `cpt.metric_kinds`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from cpt.metric_kinds import KINDS


def average_accuracy(R: ArrayLike) -> np.ndarray:
    """mean_i R[T][i]: how good the model that one would ship is, over all tasks."""
    return np.asarray(R, float)[..., -1, :].mean(-1)


def learning_accuracy(R: ArrayLike) -> np.ndarray:
    """mean_i R[i][i]: how well each task was learnt, measured right after it was trained."""
    return learnt(R).mean(-1)


def backward_transfer(R: ArrayLike) -> np.ndarray | None:
    """1/(T-1) sum_{i<T} (R[T][i] - R[i][i]): what later tasks did to earlier ones. None for one task."""
    R = np.asarray(R, float)
    return (R[..., -1, :-1] - learnt(R)[..., :-1]).mean(-1) if R.shape[-1] > 1 else None


def forward_transfer(R: ArrayLike) -> np.ndarray | None:
    """1/(T-1) sum_{i>=2} (R[i-1][i] - R[0][i]): what earlier tasks did to later ones. None for one task."""
    R = np.asarray(R, float)
    before = np.diagonal(R[..., :-1, :], axis1=-2, axis2=-1)  # R[i-1][i]
    return (before - R[..., 0, :])[..., 1:].mean(-1) if R.shape[-1] > 1 else None


def forgetting(R: ArrayLike) -> np.ndarray | None:
    """1/(T-1) sum_{i<T} (max_{i<=l<T} R[l][i] - R[T][i]). None for one task."""
    R = np.asarray(R, float)
    return forgetting_by_task(R).mean(-1) if R.shape[-1] > 1 else None


def forgetting_by_task(R: ArrayLike) -> np.ndarray:
    """(..., T-1): max_{i<=l<T} R[l][i] - R[T][i] of every task but the last, which nothing came after."""
    R = np.asarray(R, float)
    best = [R[..., i + 1 : -1, i].max(-1) for i in range(R.shape[-1] - 1)]
    return np.stack(best, -1) - R[..., -1, :-1] if best else R[..., -1, :-1]


def worst_forgetting(R: ArrayLike) -> np.ndarray | None:
    """max_{i<T} (max_{i<=l<T} R[l][i] - R[T][i]): what the task that lost most has lost. None for one task."""
    R = np.asarray(R, float)
    return forgetting_by_task(R).max(-1) if R.shape[-1] > 1 else None


def below_base(R: ArrayLike) -> np.ndarray:
    """max_i (R[0][i] - R[T][i]): how far the worst task ends below the untouched model; negative if all end above it."""
    R = np.asarray(R, float)
    return (R[..., 0, :] - R[..., -1, :]).max(-1)


def best_rows(R: ArrayLike) -> list[int]:
    """For each task but the last, the (first) row in which `forgetting` finds its best accuracy. `R` is (T+1, T)."""
    R = np.asarray(R, float)
    return [i + 1 + int(R[i + 1 : -1, i].argmax()) for i in range(R.shape[1] - 1)]


def learnt(R: ArrayLike) -> np.ndarray:
    """(..., T): R[i][i], the accuracy of each task right after it was trained."""
    return np.diagonal(np.asarray(R, float)[..., 1:, :], axis1=-2, axis2=-1)


def drop(scores: Sequence[float]) -> float:
    """Of a held-out suite: the score of row 0 minus that of the last row. `scores` is (T+1)."""
    return scores[0] - scores[-1]


Metric = Callable[[np.ndarray], np.ndarray | None]
METRICS: dict[str, Metric] = {name: globals()[name] for name in KINDS}


def summary(R: ArrayLike, metrics: Mapping[str, Metric] = METRICS) -> dict[str, float | None]:
    """Every metric of a whole matrix (T+1, T), by name; None where it is not defined."""
    values = {name: metric(np.asarray(R, float)) for name, metric in metrics.items()}
    return {name: None if value is None else float(value) for name, value in values.items()}


TIE, STEP = (
    1e-10,
    1e-12,
)  # of equal accuracies the one in the first row is taken; how far one is moved to see what it counts

Part = tuple[int, int, int | None]


def parts(R: ArrayLike, metric: Metric) -> list[Part]:
    """What a metric is the mean of: (task, row, row taken away or None), counted from 0. `R` is (T+1, T).

    That is read off its slope by each accuracy: 1/n for what is in a mean of n, -1/n for what is taken away. Forgetting is of
    its best rows as they are in `R`. Empty where the metric is not defined, or is no such mean.
    """
    R = np.asarray(R, float)
    rows, T = R.shape
    favoured = R - TIE * np.arange(rows)[:, None]
    if (value := metric(favoured)) is None:
        return []
    moved = favoured + STEP * np.eye(rows * T).reshape(-1, rows, T)
    slopes = (np.asarray(metric(moved)) - value).reshape(rows, T) / STEP
    used = [i for i in range(T) if np.abs(slopes[:, i]).max() > 1e-2]
    signs = np.rint(slopes * len(used))
    if not used or np.abs(slopes * len(used) - signs).max() > 0.1:
        return []
    terms = []
    for i in used:
        added, taken = (np.flatnonzero(signs[:, i] == sign) for sign in (1, -1))
        if len(added) != 1 or len(taken) > 1 or np.abs(signs[:, i]).sum() != len(added) + len(taken):
            return []
        terms.append((i, int(added[0]), int(taken[0]) if len(taken) else None))
    return terms


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k answers is right, estimated without bias from c right of n (2107.03374).

    1 - C(n-c, k) / C(n, k), as a product of ratios that neither overflows nor cancels. Needs k <= n.
    """
    assert 0 <= c <= n and 1 <= k <= n, f"pass@{k} of {c} right in {n}"
    return 1.0 if n - c < k else float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))
