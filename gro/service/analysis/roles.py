"""Which accounts a report tells of: those that stand out, the busiest ones, and a sample of the others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final

from gro.service.analysis.survey import Moment, Survey
from gro.service.monitor.detector import FIRST

DRAWN: Final = 8
"""Accounts that stand out and are named in pictures."""
BUSIEST: Final = 3
"""Accounts that are not listed and whose coverage is drawn nevertheless, without their names."""
SAMPLE: Final = 1000
"""Most other accounts that pictures show."""
UNUSUAL: Final = 10
"""Accounts that are listed where there is no calibration."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of accounts.

    Attributes:
        judged: those that made enough calls, as they were when that told most; the highest score first.
        listed: those that the report names: all that were flagged or, without a calibration, the most unusual ones; the
            highest score first.
        flagged: those that were flagged.
        busiest: of those that are not listed, the ones with the most calls, the most first.
        sample: of the rest, those that pictures show: drawn by lot, after those that were judged.
    """

    judged: Mapping[str, Moment]
    listed: Sequence[str]
    flagged: frozenset[str]
    busiest: Sequence[str]
    sample: Sequence[str]


def roles(found: Survey, calibrated: bool) -> Roles:
    """Choose accounts."""
    known = [(name, account.moment) for name, account in found.accounts.items() if account.moment]
    judged = dict(sorted(known, key=lambda pair: -pair[1].judged.score))
    flagged = [name for name in judged if found.accounts[name].first_alarm]
    listed = flagged if calibrated else list(judged)[:UNUSUAL]
    named = {*listed}
    rest = [name for name in found.accounts if name not in named]
    busiest = nsmallest(BUSIEST, rest, key=lambda name: -found.accounts[name].calls)
    others = (name for name in rest if name not in busiest)
    sample = nsmallest(SAMPLE, others, key=lambda name: (found.accounts[name].calls < FIRST, _lot(name)))
    return Roles(judged, listed, frozenset(flagged), busiest, sample)


def _lot(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
