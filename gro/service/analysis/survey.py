"""The first reading of a log: its accounts, and each one as the monitor saw it when that told most."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from gro.service.monitor.accounts import FEATURES, Record, Values, features
from gro.service.monitor.background import DIMENSIONS, Background
from gro.service.monitor.calibration import POINTS, Calibration, Call
from gro.service.monitor.detector import DOUBT, Detector, Judgement, compared, due
from gro.service.monitor.monitor import Watch

NOTHING: Final = Background(np.zeros(1, np.int64), np.zeros((1, DIMENSIONS), np.float32), np.zeros(1, np.int64))
"""Knows only item 0, which no call has: nothing is more or less plausible."""
IGNORED: Final = ("pace",)
"""Feature that does not count without a calibration, as by default with one."""
EVERY: Final = 100_000
"""Calls after which a reading says how far it is."""
Told = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """An account after one of its calls.

    Attributes:
        calls: that it is judged by.
        values: its features ``[F]``.
        rests: observations that each rests on ``[F]``.
        judged: what is said of it.
    """

    calls: int
    values: Values
    rests: Values
    judged: Judgement


@dataclass(slots=True)
class Account:
    """One account.

    Attributes:
        calls: in all.
        first_alarm: its calls when it was flagged; ``None`` where it never was.
        moment: of its highest score; without a calibration, the latest of those that look at most of its calls.
            ``None`` where it made too few calls to be judged.
    """

    calls: int = 0
    first_alarm: int | None = None
    moment: Moment | None = None


@dataclass(slots=True)
class Survey:
    """What the first reading found.

    Attributes:
        calls: in all.
        first: Unix seconds of the earliest.
        last: of the latest.
        accounts: by name, in order of their first calls.
        lists: numbers of lists by their length.
    """

    calls: int = 0
    first: float = math.inf
    last: float = -math.inf
    accounts: dict[str, Account] = field(default_factory=dict)
    lists: Counter[int] = field(default_factory=Counter)


def survey(log: Iterable[Call], calibration: Calibration | None, told: Told) -> Survey:
    """Read a log with the monitor that a guard with this calibration runs.

    Without one nobody is flagged, and the score of an account is its distance from the others of the log.

    Args:
        log: calls in order of time.
        calibration: of the monitor.
        told: how many calls are read.
    """
    found, observe = Survey(), _observer(calibration)
    for call in log:
        account = found.accounts.setdefault(call.account, Account())
        account.calls += 1
        found.calls += 1
        found.first, found.last = min(found.first, call.time), max(found.last, call.time)
        found.lists[len(call.listed)] += 1
        record, judged = observe(call)
        if due(calls := int(record["calls"])):
            _note(account, Moment(calls, *features(record), judged))
        if found.calls % EVERY == 0:
            told(found.calls)
    return found if calibration else _among_themselves(found)


def deviations(moments: Sequence[Moment]) -> tuple[Values, Values, Values]:
    """Describe accounts, on the scales on which the monitor compares; what one shows nothing of is as usual.

    Returns:
        Their means ``[F]`` and covariance ``[F, F]``, and how far off each is, in standard deviations ``[A, F]``.
    """
    values, rests = (np.array([getattr(each, name) for each in moments]) for name in ("values", "rests"))
    counted = (rests > 0) & np.array([name not in IGNORED for name in FEATURES])
    scaled = compared(values)
    means = np.where(counted, scaled, 0.0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    off = np.where(counted, scaled - means, 0.0)
    covariance = off.T @ off / len(off)
    return means, covariance, off / np.sqrt(np.diag(covariance) + DOUBT**2 / np.maximum(rests, 1))


def _observer(calibration: Calibration | None) -> Callable[[Call], tuple[Record, Judgement]]:
    """What takes in a call and returns what is remembered of its account, and what is said of it."""
    if calibration is None:
        watch, nothing = Watch(NOTHING, POINTS[-1]), Judgement(0.0, math.inf)
        return lambda call: (watch.observe(call.account, call.history, call.listed, call.time), nothing)
    monitor = calibration.monitor()

    def observe(call: Call) -> tuple[Record, Judgement]:
        judged = monitor.observe(call.account, call.history, call.listed, call.time)
        return monitor.accounts.touch(call.account), judged

    return observe


def _note(account: Account, now: Moment) -> None:
    before = account.moment
    if now.judged.alarm and account.first_alarm is None:
        account.first_alarm = account.calls
    if before is None or (now.judged.score, now.calls) >= (before.judged.score, before.calls):
        account.moment = now


def _among_themselves(found: Survey) -> Survey:
    """Score accounts by their distance from all of the log, as the monitor does by that from clean ones."""
    known = [(account, account.moment) for account in found.accounts.values() if account.moment]
    if known:
        means, covariance, _ = deviations([moment for _, moment in known])
        always = np.array([1.0, 2.0])
        detector = Detector(always, np.stack([means] * 2), np.stack([covariance] * 2), 0.0, IGNORED)
        for account, moment in known:
            judged = detector.judge(moment.values, moment.rests, moment.calls)
            account.moment = replace(moment, judged=replace(judged, threshold=math.inf))
    return found
