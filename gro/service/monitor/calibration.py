"""Learns from a clean log what people do, and which score at most a stated share of them ever reaches."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

import numpy as np

from gro.errors import DataError
from gro.service.monitor.accounts import FEATURES, Values, features
from gro.service.monitor.background import Background
from gro.service.monitor.detector import FIRST, Detector, compared, due, fewest, tolerance
from gro.service.monitor.hashing import Items, ends, mixed
from gro.service.monitor.monitor import ACCOUNTS, ANSWERS, Monitor, Watch

POINTS: Final = (8, 12, 18, 27, 40, 60, 90, 136, 204, 304, 448)
"""Numbers of calls after which clean accounts are described; each is one at which accounts are judged."""
ENOUGH: Final = 30
"""Accounts of each half by which clean behaviour after some number of calls is described at least."""
Traces: TypeAlias = Mapping[str, Sequence[tuple[int, Values, Values]]]


class Call(Protocol):
    """One history in, one list out."""

    @property
    def account(self) -> str:
        """Who asked."""
        ...

    @property
    def time(self) -> float:
        """Unix seconds."""
        ...

    @property
    def history(self) -> Items:
        """Item ids ``[L]``, oldest first."""
        ...

    @property
    def listed(self) -> Items:
        """Item ids ``[k]`` that were answered, best first."""
        ...


@dataclass(frozen=True)
class Calibration:
    """What the monitor needs, and what it rests on.

    Attributes:
        background: which items people go on to.
        detector: what clean accounts are like.
        false_alarms: share of clean accounts that are ever flagged, at most.
        confidence: in that.
        accounts: that it rests on.
    """

    background: Background
    detector: Detector
    false_alarms: float
    confidence: float
    accounts: int

    def monitor(self, *, accounts: int = ACCOUNTS, answers: int = ANSWERS) -> Monitor:
        """A monitor that has seen nothing yet; arguments as :class:`gro.service.monitor.monitor.Monitor`'s."""
        return Monitor(self.background, self.detector, accounts=accounts, answers=answers)


def calibrate(
    log: Iterable[Call], false_alarms: float = 0.01, confidence: float = 0.9, ignored: Sequence[str] = ("pace",)
) -> Calibration:
    """Calibrate on a log in which nobody is a thief; it is read five times, in order of time.

    Each half of the accounts is judged by what the other half does; the highest score that an account ever reached is
    one of the sample from which the threshold is taken. What is used in the end is learnt from both halves. All three
    describe accounts after the same numbers of calls, and counts begin anew after the last one, as in the monitor.

    Args:
        log: calls that can be read again and again.
        false_alarms: share of clean accounts that may ever be flagged, in (0, 1).
        confidence: that it is no more, over logs of as many accounts, in (0, 1).
        ignored: features that do not count. The pace of calls is one: limits judge it, and the times of a log that was
            put together from ratings are not those of calls.

    Raises:
        DataError: the log holds too few accounts for that share, or too short ones.
    """
    histories = list(sequences(log))
    points = _points(Counter(call.account for call in log))
    enough = fewest(false_alarms, confidence)
    highest = [score for half in (False, True) for score in _strangers(log, histories, half, points, ignored)]
    if len(highest) < enough:
        raise DataError(
            f"the log holds {len(highest)} accounts of {FIRST} calls or more; {false_alarms:.2%} of false alarms at a "
            f"confidence of {confidence:.0%} take {enough}: give a longer log or another rate"
        )
    background = Background.fit(history for _, history in histories)
    detector = _described(_traces(log, background, points[-1]).values(), points, ignored)
    threshold = tolerance(highest, false_alarms, confidence)
    return Calibration(background, replace(detector, threshold=threshold), false_alarms, confidence, len(highest))


def sequences(log: Iterable[Call]) -> Iterator[tuple[str, Items]]:
    """Put together the histories behind the calls of each account: ``(account, item ids)``, each history once."""
    begun: dict[str, list[int]] = {}
    for call in log:
        known, items = begun.get(call.account), [int(item) for item in call.history]
        new = None if known is None else _grown(known, call.history)
        if known is not None and new is not None:
            known.extend(items[len(items) - new :])
            continue
        if known is not None:
            yield call.account, np.array(known)
        begun[call.account] = items
    for name, known in begun.items():
        yield name, np.array(known)


def _grown(known: list[int], history: Items) -> int | None:
    """Items by which a history is longer than the one known; ``None`` where it is another one."""
    last = ends(mixed(np.array(known[-64:])))[0]
    hits = np.flatnonzero(ends(mixed(history)) == last)
    return int(hits[0]) if len(hits) else None


def _points(calls: Mapping[str, int]) -> Sequence[int]:
    """The points that enough accounts of both halves reach, by the calls that each made."""
    halves = [[made for name, made in calls.items() if _second(name) == half] for half in (False, True)]
    reached = {point: min(sum(made >= point for made in half) for half in halves) for point in POINTS}
    points = [point for point, accounts in reached.items() if accounts >= ENOUGH]
    if len(points) < 2:
        raise DataError(
            f"{reached[POINTS[1]]} accounts of a half of the log made {POINTS[1]} calls; it takes {ENOUGH}: "
            "give a longer log"
        )
    return points


def _strangers(
    log: Iterable[Call],
    histories: Sequence[tuple[str, Items]],
    half: bool,
    points: Sequence[int],
    ignored: Sequence[str],
) -> Iterator[float]:
    """Yield the highest score of each account of one half under what the other half does."""
    background = Background.fit(history for name, history in histories if _second(name) != half)
    traces = _traces(log, background, points[-1])
    detector = _described((trace for name, trace in traces.items() if _second(name) != half), points, ignored)
    for name, trace in traces.items():
        if _second(name) == half:
            yield max(detector.judge(values, rests, calls).score for calls, values, rests in trace)


def _traces(log: Iterable[Call], background: Background, longest: int) -> Traces:
    """What the monitor would have judged of every account: calls, features, and what they rest on."""
    watch = Watch(background, longest)
    traces = defaultdict[str, list[tuple[int, Values, Values]]](list)
    for call in log:
        record = watch.observe(call.account, call.history, call.listed, call.time)
        if due(calls := int(record["calls"])):
            traces[call.account].append((calls, *features(record)))
    return traces


def _described(
    traces: Iterable[Sequence[tuple[int, Values, Values]]], points: Sequence[int], ignored: Sequence[str]
) -> Detector:
    """Describe accounts after each number of calls."""
    rows = defaultdict[int, list[Values]](list)
    for trace in traces:
        for made, values, rests in trace:
            rows[made].append(np.where(rests > 0, compared(values), np.nan))
    means, covariances = (
        np.array(part) for part in zip(*(_moments(np.array(rows[point])) for point in points), strict=True)
    )
    out = [list(FEATURES).index(name) for name in ignored]
    covariances[:, out] = covariances[:, :, out] = 0
    return Detector(np.array(points, np.float64), means, covariances, math.inf, tuple(ignored))


def _moments(values: Values) -> tuple[Values, Values]:
    """Mean ``[F]`` and covariance ``[F, F]`` of ``[accounts, F]`` with gaps; a gap is as usual."""
    there = ~np.isnan(values)
    means = np.where(there, values, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    off = np.where(there, values - means, 0.0)
    return means, off.T @ off / len(values)


def _second(account: str) -> bool:
    """Whether an account belongs to the second half: by a hash of its name, so always alike."""
    return hashlib.blake2b(account.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0] >= 128
