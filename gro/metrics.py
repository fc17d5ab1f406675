"""How good, how alike and how much of it was stolen.

Utility is measured from ranks: the 1-based place of each user's held-out item in the full catalogue, ``[n_users]``.
Everything is a fraction and comes per user, so that intervals and paired tests see the same users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.float64]

CUTOFFS = (1, 5, 10, 20)


class Interval(NamedTuple):
    """Bounds of a confidence interval."""

    low: float
    high: float


def hit_rate(ranks: IntArray, k: int) -> FloatArray:
    """HR@k of every user: 1 where the held-out item is among the first ``k``."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: IntArray, k: int) -> FloatArray:
    """NDCG@k of every user: ``1 / log2(rank + 1)`` where the one relevant item is among the first ``k``."""
    return np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)


def utility(ranks: IntArray, ks: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Mean HR and NDCG at every cutoff: ``{"hr@1": ..., "ndcg@1": ..., ...}``."""
    measures = {"hr": hit_rate, "ndcg": ndcg}
    return {f"{name}@{k}": float(measure(ranks, k).mean()) for k in ks for name, measure in measures.items()}


def agreement(lists: IntArray, others: IntArray, k: int) -> FloatArray:
    """Agr@k of every history: the share of items that two lists' first ``k`` have in common.

    Args:
        lists: distinct item ids ``[n, >= k]``.
        others: distinct item ids ``[n, >= k]``.
        k: cutoff.
    """
    merged = np.sort(np.concatenate([lists[:, :k], others[:, :k]], axis=1), axis=1)
    return (merged[:, 1:] == merged[:, :-1]).sum(axis=1) / k


def rbo(lists: IntArray, others: IntArray, p: float = 0.9) -> FloatArray:
    """Rank-biased overlap of every pair of lists, extrapolated (Webber, Moffat & Zobel, TOIS 2010, eq. 30).

    ``RBO_ext = X_k / k * p^k + (1 - p) / p * sum_d X_d / d * p^d`` with ``X_d`` the overlap at depth ``d``.

    Args:
        lists: distinct item ids ``[n, k]``.
        others: distinct item ids ``[n, k]``.
        p: persistence in (0, 1); the weight of depth falls with ``p^d``.
    """
    k = lists.shape[1]
    depth = np.arange(1, k + 1)
    order = np.argsort(np.concatenate([lists, others], axis=1), axis=1, kind="stable")
    merged = np.take_along_axis(np.concatenate([lists, others], axis=1), order, axis=1)
    met = np.maximum(order[:, 1:] % k, order[:, :-1] % k)
    shared = merged[:, 1:] == merged[:, :-1]
    found = np.zeros((len(lists), k))
    rows, columns = np.nonzero(shared)
    np.add.at(found, (rows, met[rows, columns]), 1)
    share = found.cumsum(axis=1) / depth
    weights = p**depth
    return share[:, -1] * weights[-1] + (1 - p) / p * (share * weights).sum(axis=1)


def access_advantage(surrogate: float, floor: float, target: float) -> float:
    """What the calls bought: ``(surrogate - floor) / (target - floor)`` of NDCG@10.

    1 is a perfect copy, 0 means that the calls were worthless; NaN where the target is no better than the floor.
    """
    return (surrogate - floor) / (target - floor) if target > floor else float("nan")


def mean_interval(values: FloatArray, *, seed: int = 0, confidence: float = 0.95) -> Interval:
    """Percentile bootstrap interval of a mean over users ``[n]`` (Efron & Tibshirani 1993)."""
    return _interval((values,), np.mean, seed, confidence)


def advantage_interval(
    surrogate: FloatArray, floor: FloatArray, target: FloatArray, *, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of :func:`access_advantage`: the same users are redrawn for all three ``[n]``."""

    def statistic(surrogate: FloatArray, floor: FloatArray, target: FloatArray, axis: int) -> Any:
        base = floor.mean(axis=axis)
        return (surrogate.mean(axis=axis) - base) / (target.mean(axis=axis) - base)

    return _interval((surrogate, floor, target), statistic, seed, confidence)


def _interval(values: tuple[FloatArray, ...], statistic: Any, seed: int, confidence: float) -> Interval:
    found = bootstrap(
        values,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=1000,
        batch=100,
        method="percentile",
        confidence_level=confidence,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))
