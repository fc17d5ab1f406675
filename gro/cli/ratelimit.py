"""``gro rate-limit``: what a policy's limits leave a thief, as a table over days, calls and cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from gro.audit.ratelimit import ratelimit as play
from gro.audit.ratelimit_report import amount
from gro.cli.output import percent, show
from gro.cli.progress import watch
from gro.cli.settings import Output

COLUMNS = (
    "days",
    "calls",
    "chance %",
    "cost",
    "accounts caught",
    "copy's NDCG@10 %",
    "access advantage %",
    "thief",
)


def ratelimit(settings: Mapping[str, Any], output: Output) -> int:
    """Play thieves at a ladder of budgets and print when, and for how much, the policy lets them have each."""
    run = play(lambda label, epochs: watch(output, label, [epochs]), partial(_tell, output), **settings)
    report = {"report": str(run.path), **run.report}
    through, worst = report["through"], report["worst"]
    low, high = map(amount, through["calls_interval"])
    calls, days, cost = amount(through["calls"]), report["thief"]["days"], amount(through["cost"])
    advantage = percent(worst["access_advantage"])
    spent = f"after {amount(worst['days'])} day(s), for {amount(worst['cost'])}"
    lines = [
        f"{report['dataset']}, {report['users']:,} users, {report['model']}, exposed k {report['k']}",
        f"target's NDCG@10: {percent(report['target']['ndcg@10'])} %",
        f"policy {report['policy']} lets {calls} calls [{low}, {high}] through in {days} day(s), for {cost}",
        f"thefts were played up to {report['played']:,} calls",
        f"worst case: {worst['thief']}, access advantage {advantage} % {spent}",
        *(f"not played: {name}: {reason}" for name, reason in report["unplayed"].items()),
        f"read {run.path / 'report.md'}",
    ]
    return show(output, report, "\n".join(lines), COLUMNS, [_row(row) for row in report["rows"]])


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    copy = map(percent, (row["ndcg@10"], row["access_advantage"]))
    spent = (percent(row["chance"]), amount(row["cost"]), amount(row["caught"]))
    return (amount(row["days"]), f"{row['calls']:,}", *spent, *copy, row["thief"])


def _tell(output: Output, row: Mapping[str, Any]) -> None:
    if not output.quiet:
        advantage = percent(row["access_advantage"])
        sys.stderr.write(f"{row['thief']}, {row['calls']:,} calls: access advantage {advantage} %\n")
        sys.stderr.flush()
