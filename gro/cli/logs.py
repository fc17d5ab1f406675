"""``gro logs analyse``: a report on a query log, and who stands out in it as a table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from gro.cli.output import ABSENT, show
from gro.cli.settings import Output
from gro.service.analysis.analyse import analyse as analysed
from gro.service.analysis.report import HTML
from gro.service.analysis.settings import AnalyseCommand

COLUMNS = ("account", "score", "calls", "flagged after", "what is unusual about it")
MOST = 20
"""Rows of the table."""


def analyse(settings: Mapping[str, Any], output: Output) -> int:
    """Analyse a query log, print the accounts that stand out and where the report is."""
    content = analysed(partial(_tell, output), **settings)
    page = AnalyseCommand.make(settings).out / HTML
    about, listed = content["about"], content["listed"]
    lines = [
        f"{about['calls']:,} calls of {about['accounts']:,} accounts, {about['from']} to {about['to']}",
        _verdict(content),
        *([f"the first {MOST} of {len(listed):,}"] if len(listed) > MOST else []),
        f"read {page}",
    ]
    report = {"report": str(page), **{key: content[key] for key in ("about", "calibration", "listed")}}
    return show(output, report, "\n".join(lines), COLUMNS, [_row(row) for row in listed[:MOST]])


def _verdict(content: Mapping[str, Any]) -> str:
    about, calibration = content["about"], content["calibration"]
    if calibration is None:
        return "no calibration was given, so no account is flagged; these are the least like the others of the log"
    share = f"{100 * calibration['false_alarms']:.3g} %"
    return (
        f"{about['flagged']:,} of {about['judged']:,} judged accounts flagged; of honest ones, at most {share} would be"
    )


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    after = ABSENT if row["first_alarm"] is None else f"{row['first_alarm']:,}"
    reasons = ", ".join(f"{reason['feature']} {reason['deviations']:+.1f} sd" for reason in row["reasons"])
    return (row["account"], f"{row['score']:.1f}", f"{row['calls']:,}", after, reasons or ABSENT)


def _tell(output: Output, calls: int) -> None:
    if not output.quiet:
        sys.stderr.write(f"{calls:,} calls read\n")
        sys.stderr.flush()
