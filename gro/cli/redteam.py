"""``gro redteam``: a suite of thieves, the worst of them, and an exit code for a pipeline."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from gro.audit.redteam import redteam as play
from gro.cli.output import percent, show
from gro.cli.progress import watch
from gro.cli.settings import Output

COLUMNS = ("thief", "knows", "calls", "NDCG@10 %", "floor %", "Agr@10 %", "RBO@10 %", "access advantage %")
MISSED = 1


def redteam(settings: Mapping[str, Any], output: Output) -> int:
    """Play a suite, print every thief, the worst first; return 1 where it is above the bar."""
    run = play(lambda label, epochs: watch(output, label, [epochs]), partial(_tell, output), **settings)
    report = {"report": str(run.path), **run.report}
    worst, bar = report["worst"], report["max_advantage"]
    about = f"{report['dataset']}, {report['users']:,} users, {report['model']}, exposed k {report['k']}"
    advantage = percent(worst["access_advantage"], worst["interval"])
    lines = [
        f"{about}; suite {report['suite']}, {report['n_thieves']} thieves",
        f"target's NDCG@10: {percent(report['target']['ndcg@10'])} %",
        f"worst case: {worst['thief']}, access advantage {advantage} %",
        f"the worst of all redrawn: {percent(worst['access_advantage'], worst['interval_of_the_worst_case'])} %",
        *([] if bar is None else [f"the bar is {percent(bar)} %: {'passed' if report['passed'] else 'missed'}"]),
        f"read {run.path / 'report.html'}",
    ]
    show(output, report, "\n".join(lines), COLUMNS, [_row(row) for row in report["thieves"]])
    return MISSED if report["passed"] is False else 0


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (row["surrogate"]["ndcg@10"], row["floor"]["ndcg@10"], row["agreement@10"], row["rbo@10"])
    advantage = percent(row["access_advantage"], row["interval"])
    return (row["thief"], row["knowledge"], f"{row['calls']:,}", *map(percent, figures), advantage)


def _tell(output: Output, row: Mapping[str, Any]) -> None:
    if not output.quiet:
        sys.stderr.write(f"{row['thief']}: access advantage {percent(row['access_advantage'])} %\n")
        sys.stderr.flush()
