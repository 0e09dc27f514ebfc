"""The stability gap: what earlier tasks lose, and win back, while a later one is trained (De Lange et al. 2023, 2205.13452).

A task's curve is its accuracy at every evaluated step from the start of its own training on, in the order of the steps.
Metrics at the ends of tasks miss what happens between them: accuracy falls at once when a task changes, and recovers later.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

WINDOW = 10  # evaluated steps; WF^10 and WP^10 of the paper


def min_acc(after: Sequence[ArrayLike]) -> float | None:
    """min-ACC_k = 1/(k-1) sum_{i<k} min over the steps after task i ended of A_i.

    Args:
        after: for each task before the present one its accuracies (n_i) at the steps after it ended, n_i >= 1.

    Returns:
        The mean of the minima, in [0, 1]; None where no task came before.
    """
    return float(np.mean([np.min(each) for each in after])) if after else None


def wc_acc(present: float, after: Sequence[ArrayLike]) -> float:
    """WC-ACC = A_k / k + (1 - 1/k) min-ACC_k: the worst that a model trained on `k` tasks was on the earlier ones, and what
    it is on the present one; `after` is of the k - 1 earlier tasks, as in `min_acc`."""
    k = len(after) + 1
    worst = min_acc(after)
    return float(present) if worst is None else float(present / k + (1 - 1 / k) * worst)


def largest_drop(curve: ArrayLike, window: int = WINDOW) -> float:
    """The largest A(m) - A(n) with m <= n of the same `window` consecutive evaluated steps; 0 where it never falls."""
    values = np.asarray(curve, float)
    return max(
        (float(values[m] - values[m : m + window].min()) for m in range(len(values))),
        default=0.0,
    )


def windowed_forgetting(curves: Sequence[ArrayLike], window: int = WINDOW) -> float | None:
    """WF^w: the mean over tasks of the largest drop of A_i within `window` evaluated steps. None without a curve."""
    return float(np.mean([largest_drop(each, window) for each in curves])) if curves else None


def windowed_plasticity(curves: Sequence[ArrayLike], window: int = WINDOW) -> float | None:
    """WP^w: the same of the largest rise: how fast tasks are learnt (and recovered)."""
    return float(np.mean([largest_drop(-np.asarray(each, float), window) for each in curves])) if curves else None
