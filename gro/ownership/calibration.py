"""What a statistic is worth: p-values from the same statistic under a null.

A p-value is the place of the suspect's statistic among those of a null (Vovk, Gammerman & Shafer, *Algorithmic
Learning in a Random World*, 2005, section 2.2). It takes no distribution for granted, and is never below
``1 / (n + 1)``, however far the suspect is out. There are two nulls:

- **other secrets**, for marks, whose secret was drawn by chance. To a suspect that was made without it any other draw
  would have fitted as well, whatever the suspect is: the p-value is exact (Fisher's randomisation test; Phipson &
  Smyth, arXiv 1603.05766), and it takes no more calls, since the same answers are read with each of them;
- **innocent models**, for likeness that nobody drew. It takes for granted that an innocent suspect is like the
  innocents of one stratum, which nobody knows: it says how unusual the likeness is, and accuses nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
from scipy import stats

from gro.errors import DataError
from gro.metrics import FloatArray
from gro.ownership.suspect import Inconclusive, Suspect

OTHERS: Final = "other secrets"
"""The null of a keyed test."""
TOGETHER: Final = "together"
"""What the joint statistic of several tests is called."""
DRAWS: Final = 9_999
"""Other secrets that a suspect's answers are read with."""
NO_NUMBER: Final = "a test found no number in what the suspect answers"


class Keyed(Protocol):
    """A mark that a secret reads, where any other secret could have been drawn as well."""

    @property
    def name(self) -> str:
        """What the test is called."""
        ...

    @property
    def calls(self) -> int:
        """Most calls that it makes of a suspect."""
        ...

    def examine(self, suspect: Suspect, draws: int) -> tuple[float, FloatArray]:
        """Ask a suspect.

        Returns:
            The statistic, the larger the clearer the mark; and what ``draws`` other secrets, drawn as the owner's was,
            read from the same answers.

        Raises:
            Inconclusive: the suspect does not answer as a ranking service does.
        """
        ...

    def another(self, key: bytes) -> Self:
        """The mark that another key of 32 bytes would have given: what ``examine`` compares with."""
        ...


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

    def p_value(self, statistic: float, ties: float = 1.0) -> float:
        """``(1 + as suspicious or more) / (1 + number in the nearest stratum)``, at most 1.

        All innocents count against the claim, only the nearest stratum counts for it: a claim against a model of that
        stratum is false with a probability of at most the level, and innocents that are further away are safer.

        Args:
            statistic: of the suspect.
            ties: share of those alike, the suspect among them, that counts against the claim; drawn evenly from
                [0, 1], it makes p-values of innocents uniform where statistics are discrete (Vovk et al., 2005).
        """
        above, alike = int((self.all > statistic).sum()), 1 + int((self.all == statistic).sum())
        return min(1.0, (above + ties * alike) / (1 + len(self.nulls[self.nearest])))

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


def weigh(suspect: Suspect, marks: Sequence[Keyed], draws: int = DRAWS) -> dict[str, tuple[float, Calibration]]:
    """Put marks to a suspect: what each reads and its null, in the end the same of all "together" if there are several.

    Secrets are drawn independently and a suspect that was made without them is what it is, so that what one reads from
    it says nothing of what another does: the joint null pairs their draws.

    Raises:
        Inconclusive: the suspect does not answer as a ranking service does, or a mark finds no number in its answers.
    """
    examined = {mark.name: mark.examine(suspect, draws) for mark in marks}
    if not all(math.isfinite(value) for value, _ in examined.values()):
        raise Inconclusive(NO_NUMBER)
    found = {name: (value, Calibration({OTHERS: others.tolist()})) for name, (value, others) in examined.items()}
    if len(examined) > 1:
        values, others = zip(*examined.values(), strict=True)
        found[TOGETHER] = joint(values, {OTHERS: np.column_stack(others)})
    return found


def joint(statistics: Sequence[float], nulls: Mapping[str, FloatArray]) -> tuple[float, Calibration]:
    """Make one statistic of several tests': Fisher's, ``-sum log p``, of their places among all rows.

    It is calibrated by the same of the rows of the null, so that neither what Fisher takes for granted (independence,
    continuity) nor anything else need hold but that an innocent suspect's row is like any other. A mark that was washed
    off, ``p = 1``, adds nothing, and does not hide one that was not.

    Args:
        statistics: of the suspect, one for each of ``m`` tests.
        nulls: rows of each stratum ``[n, m]``.

    Returns:
        The suspect's joint statistic, and its null.
    """
    everybody = np.concatenate([np.asarray([statistics], dtype=np.float64), *nulls.values()])
    places = stats.rankdata(-everybody, method="max", axis=0) / len(everybody)
    fishers = -np.log(places).sum(axis=1)
    bounds = np.cumsum([1, *(len(each) for each in nulls.values())]).tolist()
    strata = {name: fishers[begin:end].tolist() for name, begin, end in zip(nulls, bounds, bounds[1:], strict=False)}
    return float(fishers[0]), Calibration(strata)


def uniformity(p_values: Sequence[float]) -> dict[str, float]:
    """Kolmogorov-Smirnov test of p-values of innocents against the uniform distribution.

    Returns:
        "distance" of the two distribution functions, its p-value as "p_value", and "below": the largest amount by
        which p-values are smaller than uniform ones, which is what would make claims false.
    """
    both, low = (stats.kstest(p_values, "uniform", alternative=side) for side in ("two-sided", "greater"))
    return {"distance": float(both.statistic), "p_value": float(both.pvalue), "below": float(low.statistic)}


def proportion(successes: int, trials: int, confidence: float = 0.95) -> dict[str, float | int | list[float] | None]:
    """A proportion, "share", ``None`` of no trials, and its exact interval (Clopper & Pearson, Biometrika 1934)."""
    if not trials:
        return {"successes": 0, "trials": 0, "share": None, "interval": [0.0, 1.0]}
    bounds = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    return {
        "successes": successes,
        "trials": trials,
        "share": successes / trials,
        "interval": [float(bounds.low), float(bounds.high)],
    }
