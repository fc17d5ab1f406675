"""``gro own trial``: how often marks and fingerprints claim copies, washed copies and innocents."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from gro.cli.output import ABSENT, percent, show
from gro.cli.settings import Output
from gro.ownership.calibration import TOGETHER
from gro.ownership.trial import trial as tried

KINDS = ("stolen", "washed", "innocent")


def trial(settings: Mapping[str, Any], output: Output) -> int:
    """Put a marked run's tests to its thefts and to innocents, and print the shares that are claimed."""
    run = tried(partial(_tell, output), **settings)
    report = run.report
    lines = [
        f"{report['run']}: claims at alpha {report['alpha']:g}, in percent of those asked, with 95 % intervals",
        f"innocents: {', '.join(f'{count} {name}' for name, count in report['innocents'].items())}",
        *(
            f"{name}: of innocents, by secrets drawn anew for each: {_share(each)}; their p-values, Kolmogorov-Smirnov "
            f"p {each['uniformity']['p_value']:.2f}"
            for name, each in report["redrawn"].items()
        ),
    ]
    rows = [(name, *(_share(claims[kind]) for kind in KINDS)) for name, claims in report["claims"].items()]
    marks = TOGETHER if TOGETHER in report["claims"] else next(iter(report["claims"]))
    rows += [(f"{marks}, {wash}", ABSENT, _share(claims[marks]), ABSENT) for wash, claims in report["washes"].items()]
    return show(output, {"folder": str(run.path), **report}, "\n".join(lines), ("test", *KINDS), rows)


def _share(found: Mapping[str, Any]) -> str:
    return ABSENT if not found["trials"] else f"{percent(found['share'], found['interval'])} of {found['trials']}"


def _tell(output: Output, line: str) -> None:
    if not output.quiet:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
