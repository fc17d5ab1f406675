"""From what was read of a log to the numbers of its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from gro.service.analysis.counts import MARKS, Counts, Coverage, buckets
from gro.service.analysis.roles import DRAWN, SAMPLE, Roles
from gro.service.analysis.settings import AnalyseCommand
from gro.service.analysis.survey import Survey, deviations
from gro.service.monitor.accounts import FEATURES
from gro.service.monitor.calibration import Calibration
from gro.service.monitor.detector import FIRST, Reason

KINDS: Final = ("others", "flagged")
FEW: Final = 5
"""Accounts below which there is no band."""
BAND: Final = (0.05, 0.5, 0.95)
ARROWS: Final = 4
"""Features whose direction is drawn among the accounts."""


def numbers(
    command: AnalyseCommand, calibration: Calibration | None, found: Survey, chosen: Roles, counts: Counts
) -> dict[str, Any]:
    """Return the numbers of a report, as JSON has them.

    Returns:
        "about" the log; the "calibration" (``None`` without one); the accounts that are "listed", with their reasons;
        and what each picture shows: "times", "lengths", "popularity", "places", "coverage" and "points".
    """
    return {
        "about": _about(command, found, chosen, counts),
        "calibration": None if calibration is None else _rests_on(command, calibration, counts),
        "listed": [_row(number, name, found, chosen) for number, name in enumerate(chosen.listed, 1)],
        "times": {kind: getattr(counts, kind).times.tolist() for kind in KINDS},
        "lengths": _lengths(counts),
        "popularity": _popularity(counts),
        "places": _places(counts),
        "coverage": _coverage(chosen, counts),
        "points": _points(found, chosen),
    }


def _about(command: AnalyseCommand, found: Survey, chosen: Roles, counts: Counts) -> dict[str, Any]:
    groups = (counts.others, counts.flagged)
    return {
        "files": [str(path) for path in command.log],
        "calls": found.calls,
        "accounts": len(found.accounts),
        "judged": len(chosen.judged),
        "fewest_calls": FIRST,
        "flagged": len(chosen.flagged),
        "flagged_calls": int(counts.flagged.times.sum()),
        "first": found.first,
        "last": found.last,
        "from": moment(found.first),
        "to": moment(found.last),
        "items_asked": len(set[int]().union(*(group.asked for group in groups))),
        "items_shown": len(set[int]().union(*(group.shown for group in groups))),
        "list_lengths": _spread(found.lists),
        "history_lengths": _spread(groups[0].lengths + groups[1].lengths),
        "calls_per_account": _spread(Counter(account.calls for account in found.accounts.values())),
    }


def moment(seconds: float) -> str:
    """Return a time in UTC to the minute, or its seconds where no calendar has it."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"


def _spread(counted: Mapping[int, int]) -> dict[str, int]:
    """Smallest, median and largest of numbers that were counted."""
    values = sorted(counted)
    passed = np.cumsum([counted[value] for value in values])
    return {"least": values[0], "median": values[int(np.searchsorted(passed, passed[-1] / 2))], "most": values[-1]}


def _rests_on(command: AnalyseCommand, calibration: Calibration, counts: Counts) -> dict[str, Any]:
    asked = counts.others.asked + counts.flagged.asked
    calls = np.fromiter(asked.values(), np.int64, len(asked))
    known = np.isin(np.fromiter(asked, np.int64, len(asked)), calibration.background.items)
    return {
        "file": str(command.calibration),
        "threshold": calibration.detector.threshold,
        "false_alarms": calibration.false_alarms,
        "confidence": calibration.confidence,
        "accounts": calibration.accounts,
        "known": float((known * calls).sum() / max(calls.sum(), 1)),
    }


def _row(number: int, name: str, found: Survey, chosen: Roles) -> dict[str, Any]:
    account, judged = found.accounts[name], chosen.judged[name].judged
    return {
        "number": number,
        "account": name,
        "score": judged.score,
        "calls": account.calls,
        "first_alarm": account.first_alarm,
        "reasons": [_reason(reason) for reason in judged.reasons],
    }


def _reason(reason: Reason) -> dict[str, Any]:
    told = {name: getattr(reason, name) for name in ("feature", "value", "usual", "deviations")}
    return {**told, "words": FEATURES[reason.feature]}


def _lengths(counts: Counts) -> dict[str, Any]:
    """Calls by the length of their history."""
    found = _bucketed(counts, "lengths")
    zero = {kind: getattr(counts, kind).lengths[0] for kind in KINDS}
    if not any(zero.values()):
        return found
    return {"buckets": ["0", *found["buckets"]], **{kind: [zero[kind], *found[kind]] for kind in KINDS}}


def _places(counts: Counts) -> dict[str, Any]:
    """Next items by their rank in the list just answered."""
    found = _bucketed(counts, "places")
    zero = {kind: getattr(counts, kind).places[0] for kind in KINDS}
    return {"buckets": [*found["buckets"], "not listed"], **{kind: [*found[kind], zero[kind]] for kind in KINDS}}


def _bucketed(counts: Counts, what: str) -> dict[str, Any]:
    counted = {kind: getattr(getattr(counts, kind), what) for kind in KINDS}
    longest = max([1, *counted["others"], *counted["flagged"]])
    summed = {kind: buckets(counted[kind], longest) for kind in KINDS}
    return {"buckets": list(summed["others"]), **{kind: list(summed[kind].values()) for kind in KINDS}}


def _popularity(counts: Counts) -> dict[str, list[tuple[int, float]]]:
    """What share of calls, or of list entries, the most popular 1, 2, 5, 10, ... items have."""
    curves = {
        "asked by others": counts.others.asked,
        "shown to others": counts.others.shown,
        "asked by flagged": counts.flagged.asked,
        "shown to flagged": counts.flagged.shown,
    }
    return {name: _cumulated(counted) for name, counted in curves.items() if counted}


def _cumulated(counted: Mapping[int, int]) -> list[tuple[int, float]]:
    summed = np.cumsum(np.sort(np.fromiter(counted.values(), np.int64, len(counted)))[::-1])
    places = [*(mark for mark in MARKS if mark < len(summed)), len(summed)]
    return [(place, float(summed[place - 1] / summed[-1])) for place in places]


def _coverage(chosen: Roles, counts: Counts) -> dict[str, Any]:
    whole = {name: each.whole for name, each in counts.coverage.items()}
    sample = [counts.coverage[name] for name in chosen.sample]
    return {
        "listed": [{"number": n, "points": whole[name]} for n, name in enumerate(chosen.listed[:DRAWN], 1)],
        "busiest": [{"number": n, "points": whole[name]} for n, name in enumerate(chosen.busiest, 1)],
        "others": len(sample),
        "band": band(sample),
    }


def band(sample: Iterable[Coverage]) -> list[dict[str, Any]]:
    """The quantiles :data:`BAND` of accounts after each number of calls that enough of them made."""
    at: dict[int, list[tuple[int, int]]] = {}
    for each in sample:
        for calls, sent, shown in each.points:
            at.setdefault(calls, []).append((sent, shown))
    rows = []
    for calls in sorted(calls for calls, known in at.items() if len(known) >= FEW):
        sent, shown = np.quantile(np.array(at[calls]), BAND, axis=0).T.tolist()
        rows.append({"calls": calls, "accounts": len(at[calls]), "sent": sent, "shown": shown})
    return rows


def _points(found: Survey, chosen: Roles) -> dict[str, Any]:
    """Accounts in two dimensions: how unusual each is, and which way.

    The distance from the middle is the score; the direction is that among the two main axes along which the judged
    accounts of the log differ (Pearson, 1901).
    """
    if not chosen.judged:
        return {"accounts": [], "arrows": []}
    _, _, off = deviations(list(chosen.judged.values()))
    axes = _main_axes(off)
    angles = dict(zip(chosen.judged, np.arctan2(off @ axes[:, 1], off @ axes[:, 0]).tolist(), strict=True))
    numbered = {name: number for number, name in enumerate(chosen.listed[:DRAWN], 1)}
    drawn = dict.fromkeys([*chosen.listed[:SAMPLE], *chosen.busiest, *chosen.sample])
    told = set(np.argsort(-np.linalg.norm(axes, axis=1))[:ARROWS].tolist())
    return {
        "accounts": [
            {
                "number": numbered.get(name),
                "flagged": found.accounts[name].first_alarm is not None,
                "score": chosen.judged[name].judged.score,
                "angle": angles[name],
            }
            for name in drawn
            if name in chosen.judged
        ],
        "arrows": [
            {"feature": name, "words": words, "angle": float(np.arctan2(axes[at, 1], axes[at, 0]))}
            for at, (name, words) in enumerate(FEATURES.items())
            if at in told
        ],
    }


def _main_axes(off: np.ndarray) -> np.ndarray:
    """The two directions ``[F, 2]`` along which rows ``[A, F]`` differ most, the sign by the largest part of each."""
    axes = np.linalg.eigh(off.T @ off)[1][:, :-3:-1]
    return np.asarray(axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]]))
