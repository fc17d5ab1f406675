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

from gro.errors import GroError

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.float64]

CUTOFFS = (1, 5, 10, 20)
RESAMPLES = 1000
CHUNK = 1 << 20
"""Users drawn at a time, over all resamples of a batch: what bounds the memory of an interval."""


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
    """Agr@k of every history: how many items two lists' first ``k`` have in common, divided by ``k``.

    Args:
        lists: distinct item ids ``[n, >= k]``, right-padded with 0, which is in common with nothing.
        others: distinct item ids ``[n, >= k]``, likewise.
        k: cutoff.

    Raises:
        GroError: the numbers of lists differ, or a list is shorter than ``k``.
    """
    shortest = min(lists.shape[1], others.shape[1])
    if len(lists) != len(others) or not 1 <= k <= shortest:
        raise GroError(
            f"agreement at {k} of lists {lists.shape} and {others.shape}: rows must match, k be 1..{shortest}"
        )
    merged = np.sort(np.concatenate([lists[:, :k], others[:, :k]], axis=1), axis=1)
    return np.asarray(_pairs(merged).sum(axis=1) / k, dtype=np.float64)


def rbo(lists: IntArray, others: IntArray, p: float = 0.9) -> FloatArray:
    """Rank-biased overlap of every pair of lists, extrapolated (Webber, Moffat & Zobel, TOIS 2010, eq. 23).

    ``RBO_ext = X_k / k * p^k + (1 - p) / p * sum_d X_d / d * p^d`` with ``X_d`` the overlap at depth ``d``.

    Args:
        lists: distinct item ids ``[n, k]``, right-padded with 0, which is in common with nothing.
        others: distinct item ids ``[n, k]``, likewise.
        p: persistence in (0, 1); the weight of depth falls with ``p^d``.

    Raises:
        GroError: the shapes differ, the lists are empty or ``p`` is out of range.
    """
    if lists.shape != others.shape or lists.shape[1] < 1 or not 0 < p < 1:
        raise GroError(
            f"overlap of lists {lists.shape} and {others.shape}, p {p}: shapes must match, p be within (0, 1)"
        )
    depth = np.arange(1, lists.shape[1] + 1)
    share = _met(lists, others).cumsum(axis=1) / depth
    weights = p**depth
    return np.asarray(share[:, -1] * weights[-1] + (1 - p) / p * (share * weights).sum(axis=1), dtype=np.float64)


def _met(lists: IntArray, others: IntArray) -> FloatArray:
    """How many items become common at each depth of two sets of lists ``[n, k]``: ``[n, k]``."""
    k = lists.shape[1]
    both = np.concatenate([lists, others], axis=1)
    order = np.argsort(both, axis=1)
    merged = np.take_along_axis(both, order, axis=1)
    rows, columns = np.nonzero(_pairs(merged))
    depths = np.maximum(order[rows, columns] % k, order[rows, columns + 1] % k)
    return np.bincount(rows * k + depths, minlength=lists.size).astype(np.float64).reshape(lists.shape)


def _pairs(merged: IntArray) -> npt.NDArray[np.bool_]:
    """Which ids of sorted rows ``[n, m]`` are followed by the same id; padding never is: ``[n, m - 1]``."""
    return np.asarray((merged[:, 1:] == merged[:, :-1]) & (merged[:, 1:] != 0))


def access_advantage(surrogate: float, floor: float, target: float) -> float:
    """What the calls bought: ``(surrogate - floor) / (target - floor)`` of NDCG@10.

    1 is a perfect copy, 0 means that the calls were worthless; NaN where the target is no better than the floor.
    """
    return (surrogate - floor) / (target - floor) if target > floor else float("nan")


def mean_interval(
    values: FloatArray, *, seed: int = 0, confidence: float = 0.95, n_resamples: int = RESAMPLES
) -> Interval:
    """Percentile bootstrap interval of a mean over users ``[n]`` (Efron & Tibshirani 1993).

    Raises:
        GroError: there are fewer than two users.
    """
    return _interval(_resampled_means((values,), seed, n_resamples)[0], confidence)


def advantage_interval(
    surrogate: FloatArray,
    floor: FloatArray,
    target: FloatArray,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    n_resamples: int = RESAMPLES,
) -> Interval:
    """Percentile bootstrap interval of :func:`access_advantage`: the same users are redrawn for all three ``[n]``.

    A draw of users whose target is no better than the floor tells nothing and is counted beyond both bounds. Where
    half of ``1 - confidence`` of the draws are such, the interval is ``(-inf, inf)``.

    Raises:
        GroError: there are fewer than two users, or the three do not have the same number.
    """
    stolen, base, best = _resampled_means((surrogate, floor, target), seed, n_resamples)
    drawn = np.full(n_resamples, np.nan)
    np.divide(stolen - base, best - base, out=drawn, where=best > base)
    return _interval(drawn, confidence)


def advantage_intervals(
    surrogates: Sequence[FloatArray],
    floors: Sequence[FloatArray],
    target: FloatArray,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    n_resamples: int = RESAMPLES,
) -> tuple[list[Interval], Interval]:
    """Intervals of several thieves' access advantages over one target, and of the largest of them.

    The same users are redrawn for everybody, and the largest is chosen anew in every draw: its interval is that of the
    worst case itself, not of the thief who happened to be worst. The maximum of noisy figures is biased upwards, that
    is against the target.

    Args:
        surrogates: gains of each thief's copy ``[n]``.
        floors: gains of each thief's floor ``[n]``.
        target: gains of the target ``[n]``.
        seed: source of the draws.
        confidence: of each interval.
        n_resamples: number of draws.

    Raises:
        GroError: as :func:`advantage_interval`.
    """
    best, *others = _resampled_means((target, *surrogates, *floors), seed, n_resamples)
    stolen, base = np.array(others[: len(surrogates)]), np.array(others[len(surrogates) :])
    drawn = np.full(stolen.shape, np.nan)
    np.divide(stolen - base, best - base, out=drawn, where=best > base)
    low, high = (np.where(np.isnan(drawn), unknown, drawn).max(axis=0) for unknown in (-np.inf, np.inf))
    worst = Interval(_interval(low, confidence).low, _interval(high, confidence).high)
    return [_interval(each, confidence) for each in drawn], worst


def loss_interval(
    plain: FloatArray,
    served: FloatArray,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    n_resamples: int = RESAMPLES,
) -> Interval:
    """Percentile bootstrap interval of the relative loss ``1 - served / plain``: the same users are redrawn for both.

    Args:
        plain: gains of each user before ``[n]``, not negative and not all 0.
        served: gains of each user after ``[n]``.
        seed: source of the draws.
        confidence: of the interval.
        n_resamples: number of draws; those in which all plain gains are 0 are left out.

    Raises:
        GroError: there are fewer than two users, or the two do not have the same number, or there was nothing to lose.
    """
    before, after = _resampled_means((plain, served), seed, n_resamples)
    if not (told := before > 0).any():
        raise GroError("the interval of a relative loss needs plain gains above 0")
    return _interval(1 - after[told] / before[told], confidence)


def _resampled_means(values: tuple[FloatArray, ...], seed: int, n_resamples: int) -> FloatArray:
    """Means ``[m, n_resamples]`` of ``m`` measures over the same redrawn users."""
    sizes = {len(each) for each in values}
    if len(sizes) > 1 or min(sizes) < 2:
        raise GroError(f"an interval needs the same two or more users throughout; there are {sorted(sizes)}")

    def means(*drawn: FloatArray, axis: int) -> FloatArray:
        return np.stack([each.mean(axis=axis) for each in drawn])

    found = bootstrap(
        values,
        means,
        paired=True,
        vectorized=True,
        n_resamples=n_resamples,
        batch=max(1, CHUNK // min(sizes)),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.asarray(found.bootstrap_distribution, dtype=np.float64)


def _interval(drawn: FloatArray, confidence: float) -> Interval:
    """Percentiles of redrawn statistics; NaN counts as -inf for the lower bound and as +inf for the upper."""
    tail = (1 - confidence) / 2
    low = np.quantile(np.where(np.isnan(drawn), -np.inf, drawn), tail, method="inverted_cdf")
    high = np.quantile(np.where(np.isnan(drawn), np.inf, drawn), 1 - tail, method="inverted_cdf")
    return Interval(float(low), float(high))
