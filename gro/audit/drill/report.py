"""What a drill found, as figures, as JSON and as Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from gro import reports
from gro.audit.drill.thieves import Alarm, Gang
from gro.audit.report import interval
from gro.reports import environment

CONFIDENCE = 0.95
"""Of the interval of a share."""


def share(hits: int, of: int) -> dict[str, Any]:
    """Return a share with its interval (Clopper & Pearson, Biometrika 1934)."""
    low, high = binomtest(hits, of).proportion_ci(CONFIDENCE)
    return {"hits": hits, "of": of, "share": hits / of, "interval": [float(low), float(high)]}


def alarm(raised: Alarm) -> dict[str, Any]:
    """Return an alarm with the features that were unlike people's, the furthest off first."""
    judged = raised.judgement
    reasons = [
        {"feature": each.feature, "value": each.value, "usual": each.usual, "deviations": each.deviations}
        for each in judged.reasons
    ]
    return {"calls": raised.calls, "own_calls": raised.own, "score": judged.score, "reasons": reasons}


def _named(raised: Alarm) -> dict[str, Any]:
    """An alarm with the names of those features only."""
    told = alarm(raised)
    return {**told, "reasons": [each["feature"] for each in told["reasons"]]}


def caught(gangs: Sequence[Gang]) -> dict[str, Any]:
    """Return after how many calls the first and the last account of each gang was flagged."""
    return {
        "first": _until([gang.alarms[0].calls if gang.alarms else math.inf for gang in gangs]),
        "last": _until([gang.alarms[-1].calls if gang.caught else math.inf for gang in gangs]),
        **share(sum(gang.caught for gang in gangs), len(gangs)),
        "flagged": [len(gang.alarms) for gang in gangs],
        "plays": [{"calls": gang.calls, "alarms": list(map(_named, gang.alarms))} for gang in gangs],
    }


def write_to(folder: Path, found: Mapping[str, Any]) -> None:
    """Write a report of :func:`gro.audit.drill.play.drill` as ``report.json`` and ``report.md``.

    Raises:
        DataError: the folder cannot be written.
    """
    made = environment("gro.audit")
    made.filters |= {"interval": interval, "until": until, "reasons": reasons}
    text = made.get_template("drill.md.jinja").render(**found)
    reports.write(folder, {"report.json": json.dumps(found, indent=1) + "\n", "report.md": text})


def until(calls: Mapping[str, int | None]) -> str:
    """Return calls as ``median [least, most]``; a dash is never."""
    median, least, most = ("-" if calls[key] is None else f"{calls[key]:,}" for key in ("median", "least", "most"))
    return f"{median} [{least}, {most}]"


def reasons(alarms: Sequence[Mapping[str, Any]]) -> str:
    """Return how many of the alarms name each feature first: ``listed 4, fresh 1``."""
    first = [each["reasons"][0] for each in alarms if each["reasons"]]
    return ", ".join(f"{name} {first.count(name)}" for name in sorted(set(first), key=lambda name: -first.count(name)))


def _until(calls: Sequence[float]) -> dict[str, int | None]:
    """Median (the larger middle one), least and most of numbers of calls; ``None`` is never."""
    ordered = np.sort(calls)
    figures = {"median": ordered[len(ordered) // 2], "least": ordered[0], "most": ordered[-1]}
    return {name: None if math.isinf(value) else int(value) for name, value in figures.items()}
