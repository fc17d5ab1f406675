"""One calibrated score for an account: how far it is from what clean accounts do after as many calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.linalg.lapack import dgesv

from gro.service.monitor.accounts import FEATURES, Values

FIRST: Final = 8
"""Calls before which nothing is said of an account."""
TELLING: Final = 2.0
"""Deviations from which a feature is named as a reason."""
SHARES: Final = ("listed", "plausible", "fresh", "repeated", "foreign")
"""Features that are compared by the arcsine of their root, whose variance does not depend on the share."""
RATIOS: Final = ("revealed",)
"""Features that are compared by their logarithm."""
RARE: Final = ("fresh", "repeated", "foreign")
"""Shares that are near zero for clean accounts, where one event more says little."""
DOUBT: Final = np.array([0.5 if name in RARE else 0.25 for name in FEATURES])
"""Standard deviation of one observation as it is compared, which is added to that between accounts."""
_SHARE, _RATIO = (np.array([name in names for name in FEATURES]) for names in (SHARES, RATIOS))
_DOUBT: Final = DOUBT**2


def due(calls: int) -> bool:
    """Whether an account is judged after so many calls: after each one at first, then after each sixteenth of them."""
    return calls >= FIRST and calls % max(1, calls // 16) == 0


@dataclass(frozen=True, slots=True)
class Reason:
    """A feature of an account that is unlike people's.

    Attributes:
        feature: a key of :data:`gro.service.monitor.accounts.FEATURES`.
        value: of the account.
        usual: mean of clean accounts after as many calls.
        deviations: how far away, in standard deviations; below 0 where the value is smaller than usual.
    """

    feature: str
    value: float
    usual: float
    deviations: float

    def __str__(self) -> str:
        return f"{FEATURES[self.feature]}: {self.value:.2f}, people {self.usual:.2f} ({self.deviations:+.1f} sd)"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the monitor says of an account after a call.

    Attributes:
        score: distance from clean accounts (Mahalanobis, 1936), in standard deviations.
        threshold: what at most the stated share of clean accounts ever exceeds.
        reasons: of an alarm; the features that are furthest off, the furthest first.
    """

    score: float
    threshold: float
    reasons: tuple[Reason, ...] = ()

    @property
    def alarm(self) -> bool:
        """Whether the account is not one of the clean ones."""
        return self.score > self.threshold


@dataclass(frozen=True)
class Detector:
    """What clean accounts are like.

    Attributes:
        calls: numbers of calls ``[P]`` at which they are described.
        means: of each feature ``[P, F]``, as they are compared.
            threshold: see :class:`Judgement`.
        ignored: features that are told of an account and do not count.
    """

    calls: Values
    means: Values
    covariances: Values
    threshold: float
    ignored: tuple[str, ...] = ()

    @cached_property
    def _counted(self) -> npt.NDArray[np.bool_]:
        return np.array([name not in self.ignored for name in FEATURES])

    @cached_property
    def longest(self) -> int:
        """Most calls that are judged together."""
        return int(self.calls[-1])

    def judge(self, values: Values, rests: Values, calls: int) -> Judgement:
        """Compare features ``[F]`` that rest on so many observations each with those of clean accounts."""
        means, covariances = self._usual
        at = min(calls, self.longest)
        usual, covariance = means[at], covariances[at].copy()
        variances = covariance.ravel()[:: len(usual) + 1]
        variances += _DOUBT / np.maximum(rests, 1)
        off = np.where((rests > 0) & self._counted, compared(values) - usual, 0.0)
        score = math.sqrt(max(float(off @ dgesv(covariance, off)[2]), 0.0))
        if score <= self.threshold:
            return Judgement(score, self.threshold)
        off /= np.sqrt(variances)
        order = [int(at) for at in np.argsort(-np.abs(off)) if abs(off[at]) >= TELLING]
        names, natural = list(FEATURES), _natural(usual)
        reasons = (Reason(names[at], float(values[at]), float(natural[at]), float(off[at])) for at in order)
        return Judgement(score, self.threshold, tuple(reasons))

    @cached_property
    def _usual(self) -> tuple[Values, Values]:
        """Means and covariances after 0, 1, ... :attr:`longest` calls, between those of the points around them."""
        calls = np.maximum(np.arange(self.longest + 1), 1)
        place = np.interp(np.log(calls), np.log(self.calls), np.arange(len(self.calls)))
        low = np.minimum(place.astype(np.intp), len(self.calls) - 2)
        share = place - low
        return _between(self.means, low, share[:, None]), _between(self.covariances, low, share[:, None, None])


def _between(of: Values, low: npt.NDArray[np.intp], share: Values) -> Values:
    return (1 - share) * of[low] + share * of[low + 1]


def compared(values: Values) -> Values:
    """Features ``[..., F]`` on the scales on which accounts are compared."""
    scaled = values.copy()
    np.arcsin(np.sqrt(np.minimum(values, 1)), out=scaled, where=_SHARE)
    np.log(np.maximum(values, 1e-6), out=scaled, where=_RATIO)
    return scaled


def _natural(values: Values) -> Values:
    return np.where(_SHARE, np.sin(values) ** 2, np.where(_RATIO, np.exp(np.minimum(values, 0)), values))


def tolerance(scores: Sequence[float], false_alarms: float, confidence: float) -> float:
    """The threshold that at most a share of the population exceeds, with some confidence over samples of it.

    An order statistic, whatever the distribution (Wilks, Annals of Mathematical Statistics 1941): the smallest score
    such that a share of ``false_alarms`` beyond it would, with a probability of ``confidence``, have shown more often.

    Args:
        scores: of a sample.
        false_alarms: share, in (0, 1).
        confidence: in (0, 1).

    Returns:
        The threshold; infinite where the sample is too small to say.
    """
    beyond = int(stats.binom.ppf(1 - confidence, len(scores), false_alarms))
    while beyond >= 0 and stats.binom.cdf(beyond, len(scores), false_alarms) > 1 - confidence:
        beyond -= 1
    return sorted(scores)[-1 - beyond] if beyond >= 0 else math.inf


def fewest(false_alarms: float, confidence: float) -> int:
    """Scores below which :func:`tolerance` cannot say anything."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - false_alarms))
