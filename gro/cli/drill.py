"""``gro guard drill``: when the guard catches each thief, whom else it takes for one, and what the copies are worth."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from gro.audit.drill.play import drill as play
from gro.audit.drill.report import until
from gro.cli.output import percent, show
from gro.cli.settings import Output

COLUMNS = (
    "thief",
    "accounts",
    "shared by",
    "caught",
    "first alarm after",
    "all flagged after",
    "copy's NDCG@10 %",
    "Agr@10 %",
    "access advantage %",
)


def drill(settings: Mapping[str, Any], output: Output) -> int:
    """Hold a fire drill and print who was flagged, and after how many calls."""
    run = play(partial(_tell, output), **settings)
    report = {"report": str(run.path), **run.report}
    people, rests_on = report["people"], report["calibration"]
    about = f"{report['dataset']}, {report['users']:,} users, {report['model']}, exposed k {report['k']}"
    flagged = f"{people['hits']} of {people['of']:,}, {percent(people['share'], people['interval'])} %"
    meant = f"{rests_on['accounts']:,} others for {percent(rests_on['false_alarms'])} %"
    lines = [
        f"{about}; suite {report['suite']}, {report['seeds']} play(s) of each thief, playbook {report['playbook']}",
        f"target's NDCG@10: {percent(report['target']['ndcg@10'])} %",
        f"real users ever flagged: {flagged}, in {people['calls']:,} calls; calibrated on {meant}",
        f"read {run.path / 'report.md'}",
    ]
    return show(output, report, "\n".join(lines), COLUMNS, [_row(row) for row in report["thieves"]])


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    copy = row["copy"]
    caught = (f"{row['hits']}/{row['of']}", until(row["first"]), until(row["last"]))
    worth = map(percent, (copy["surrogate"]["ndcg@10"], copy["agreement@10"], copy["access_advantage"]))
    return (row["thief"], str(row["accounts"]), row["sharing"] or "", *caught, *worth)


def _tell(output: Output, line: str) -> None:
    if not output.quiet:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
