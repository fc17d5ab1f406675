"""The report of a verdict: one HTML file that somebody who decides, and is no engineer, can read, print and check.

It asserts nothing that was not checked again when it was written, see :mod:`gro.ownership.evidence`.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from gro import reports
from gro.errors import MissingExtraError
from gro.ownership import pictures
from gro.ownership.evidence import EXACT, Evidence, VerdictFile
from gro.ownership.timestamp import Proof
from gro.ownership.verdict import UNFAIR
from gro.provenance import versions


def write(path: Path, evidence: Evidence, proof: Proof | None = None, *, known: bool = False) -> None:
    """Write the report of a verdict as one HTML file that needs no other.

    Args:
        path: of the report.
        evidence: that was read and checked.
        proof: when the statement existed, from :func:`gro.ownership.timestamp.proven_time`.
        known: whether the key of the statement was compared with the owner's as known from elsewhere.

    Raises:
        DataError: it cannot be written.
    """
    made = reports.environment("gro.ownership")
    made.filters |= {"figure": _figure, "one_in": _one_in, "utc": _utc}
    page = made.get_template("report.html.jinja").render(
        verdict=evidence.verdict,
        statement=evidence.statement,
        digest=evidence.digest,
        untested=evidence.untested,
        proof=proof,
        known=known,
        unfair_at=UNFAIR,
        pictures=_drawn(evidence.verdict),
        versions=versions(),
    )
    reports.write(path.parent, {path.name: page})


def _drawn(verdict: VerdictFile) -> dict[str, str]:
    """The pictures by the name of the test, none where matplotlib is not installed."""
    told = verdict.marks | verdict.likeness
    try:
        return {name: pictures.null_distribution(found.nulls, found.statistic) for name, found in told.items()}
    except MissingExtraError:
        return {}


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _figure(value: float) -> str:
    return f"{value:.3g}"


def _one_in(p_value: float) -> str:
    """A probability as the number of cases of which one is expected."""
    return f"{math.floor(1 / p_value + EXACT):,}"
