"""``gro own trial``: how often fingerprints claim copies, washed copies and innocents."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from gro.cli.output import ABSENT, percent, show
from gro.cli.settings import Output
from gro.ownership.trial import trial as tried

KINDS = ("stolen", "washed", "innocent")


def trial(settings: Mapping[str, Any], output: Output) -> int:
    """Put a run's fingerprints to its thefts and to innocents, and print the shares that are claimed."""
    run = tried(partial(_tell, output), **settings)
    report = run.report
    lines = [
        f"{report['run']}: claims at alpha {report['alpha']:g}, in percent of those asked, with 95 % intervals",
        f"innocents: {', '.join(f'{count} {name}' for name, count in report['innocents'].items())}",
        *(
            f"{name}: p-values of the nearest innocents, Kolmogorov-Smirnov p {each['p_value']:.2f}"
            for name, each in report["uniformity"].items()
        ),
    ]
    rows = [(name, *(_share(claims.get(kind)) for kind in KINDS)) for name, claims in report["claims"].items()]
    return show(output, {"folder": str(run.path), **report}, "\n".join(lines), ("test", *KINDS), rows)


def _share(found: Mapping[str, Any] | None) -> str:
    return ABSENT if found is None else f"{percent(found['share'], found['interval'])} of {found['trials']}"


def _tell(output: Output, line: str) -> None:
    if not output.quiet:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
