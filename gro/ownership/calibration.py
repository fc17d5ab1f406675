"""What a statistic is worth: p-values from the same statistic of innocent models.

A p-value is conformal: the place of the suspect's statistic among those of innocents (Vovk, Gammerman & Shafer,
*Algorithmic Learning in a Random World*, 2005, section 2.2). It takes no distribution for granted, only that a suspect
that is innocent is like the innocents of one stratum; and it is never below ``1 / (n + 1)``, however far the suspect is
out, so that a claim at 1 % needs 99 innocents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import stats

from gro.errors import DataError
from gro.metrics import FloatArray
from gro.ownership.suspect import Suspect


class Test(Protocol):
    """Something of the owner's that a copy tells more of than an innocent model does."""

    @property
    def name(self) -> str:
        """What the test is called."""
        ...

    @property
    def calls(self) -> int:
        """Most calls that it makes of a suspect."""
        ...

    def statistic(self, suspect: Suspect) -> float:
        """Ask a suspect; the larger, the more like the owner's model.

        Raises:
            Inconclusive: the suspect does not answer as a ranking service does.
        """
        ...


@dataclass(frozen=True)
class Calibration:
    """The statistics of innocents, by stratum: how they were made.

    Attributes:
        nulls: statistics of the innocents of each stratum.
    """

    nulls: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        if not self.nulls or not all(self.nulls.values()):
            raise DataError("a p-value is read off innocent models; there are none")
        if not np.isfinite(self.all).all():
            raise DataError("a statistic of an innocent model is not finite")

    @property
    def all(self) -> FloatArray:
        """The statistics of all innocents."""
        return np.concatenate([np.asarray(each, dtype=np.float64) for each in self.nulls.values()])

    @property
    def nearest(self) -> str:
        """The stratum whose innocents are on average most like the owner's model.

        Of those that are at least half as large as the largest: the mean of a few says little.
        """
        largest = max(map(len, self.nulls.values()))
        large = [name for name, each in self.nulls.items() if 2 * len(each) >= largest]
        return max(large, key=lambda name: float(np.mean(self.nulls[name])))

    @property
    def least(self) -> float:
        """The smallest p-value that there can be."""
        return 1 / (len(self.nulls[self.nearest]) + 1)

    def p_value(self, statistic: float) -> float:
        """``(1 + innocents at least as suspicious) / (1 + innocents of the nearest stratum)``, at most 1.

        All innocents count against the claim, only the nearest stratum counts for it: a claim against a model of that
        stratum is false with a probability of at most the level, and innocents that are further away are safer.
        """
        return min(1.0, (1 + int((self.all >= statistic).sum())) / (1 + len(self.nulls[self.nearest])))

    def effect(self, statistic: float) -> float | None:
        """Standard deviations of the nearest stratum that the statistic is above its mean; ``None`` where it has none.

        An effect size, not a p-value: the tail of the statistic is not known.
        """
        near = self.nulls[self.nearest]
        spread = float(np.std(near, ddof=1)) if len(near) > 1 else 0.0
        return (statistic - float(np.mean(near))) / spread if spread else None

    def report(self, statistic: float) -> dict[str, Any]:
        """What a verdict says of one test."""
        strata = {
            name: {"innocents": len(each), "mean": float(np.mean(each)), "highest": float(np.max(each))}
            for name, each in self.nulls.items()
        }
        return {
            "statistic": statistic,
            "p_value": self.p_value(statistic),
            "effect": self.effect(statistic),
            "nearest": self.nearest,
            "strata": strata,
            "nulls": {name: list(each) for name, each in self.nulls.items()},
        }


def conformal(statistic: float, nulls: Sequence[float]) -> float:
    """The conformal p-value of a statistic: ``(1 + #{null >= statistic}) / (n + 1)``."""
    return (1 + sum(null >= statistic for null in nulls)) / (len(nulls) + 1)


def joint(statistics: Sequence[float], nulls: Mapping[str, FloatArray]) -> tuple[float, Calibration]:
    """Make one statistic of several tests': the largest, after each was put on one scale.

    The largest, so that a mark that was washed off does not hide one that was not. It is calibrated by the same of the
    same innocents, so that however the tests depend on each other is in the null: no independence is assumed, unlike by
    Fisher's or Stouffer's way. Each test is centred and scaled by all models, the suspect among them, in the same way:
    that keeps an innocent suspect exchangeable with the innocents.

    Args:
        statistics: of the suspect, one for each of ``m`` tests.
        nulls: of the innocents of each stratum ``[n, m]``.

    Returns:
        The suspect's joint statistic, and the innocents'.
    """
    everybody = np.concatenate([np.asarray([statistics], dtype=np.float64), *nulls.values()])
    spread = everybody.std(axis=0)
    scaled = (everybody - everybody.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    largest = scaled.max(axis=1).tolist()
    bounds = np.cumsum([1, *(len(each) for each in nulls.values())]).tolist()
    strata = {name: largest[begin:end] for name, begin, end in zip(nulls, bounds, bounds[1:], strict=False)}
    return largest[0], Calibration(strata)


def cross_fitted(nulls: Mapping[str, Sequence[float]], folds: int, seed: int) -> dict[str, list[float]]:
    """P-values of innocents, each calibrated by the others that are not in its fold: what claims they would meet with.

    Args:
        nulls: statistics of the innocents of each stratum.
        folds: parts into which each stratum is dealt at random.
        seed: of the deal.
    """
    rng = np.random.default_rng(seed)
    fold = {name: rng.permutation(np.arange(len(each)) % folds) for name, each in nulls.items()}
    values = {name: np.asarray(each) for name, each in nulls.items()}
    found: dict[str, list[float]] = {name: [0.0] * len(each) for name, each in nulls.items()}
    for number in range(folds):
        left = {name: each[fold[name] != number].tolist() for name, each in values.items()}
        others = Calibration({name: each for name, each in left.items() if each})
        for name, each in values.items():
            for place in np.flatnonzero(fold[name] == number).tolist():
                found[name][place] = others.p_value(float(each[place]))
    return found


def merged(p_values: Sequence[float]) -> float:
    """One p-value from several that may depend on each other in any way and have other nulls: Bonferroni's.

    The smallest times their number (Vovk & Wang, Biometrika 2020, the merging function for ``r = -inf``): best where
    one of several marks survived and the others did not.
    """
    return min(1.0, len(p_values) * min(p_values))


def uniformity(p_values: Sequence[float]) -> dict[str, float]:
    """Kolmogorov-Smirnov test of p-values of innocents against the uniform distribution.

    Returns:
        "distance" of the two distribution functions, its p-value as "p_value", and "below": the largest amount by
        which p-values are smaller than uniform ones, which is what would make claims false.
    """
    both, low = (stats.kstest(p_values, "uniform", alternative=side) for side in ("two-sided", "greater"))
    return {"distance": float(both.statistic), "p_value": float(both.pvalue), "below": float(low.statistic)}


def proportion(successes: int, trials: int, confidence: float = 0.95) -> dict[str, float | int | list[float]]:
    """A proportion and its exact interval (Clopper & Pearson, Biometrika 1934)."""
    bounds = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    return {
        "successes": successes,
        "trials": trials,
        "share": successes / trials,
        "interval": [float(bounds.low), float(bounds.high)],
    }
