"""For the tests of those who use the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def assert_not_stealable(
    run: Path, max_advantage: float = 0.5, suite: str = "smoke", **settings: Any
) -> dict[str, Any]:
    """Fail where a thief of a suite gets more than ``max_advantage`` out of a run; else return the report.

    Under pytest the same function is the fixture ``assert_not_stealable``. Thefts are kept beside the run, so that a
    second test of the same run is quick.

    Args:
        run: folder of the artifact.
        max_advantage: largest access advantage allowed; see :func:`gro.metrics.access_advantage`.
        suite: card of the suite, by name or as a file.
        settings: others of :class:`gro.config.RedteamCommand`.

    Raises:
        AssertionError: names the worst thief, its advantage and its interval.
        GroError: as :func:`gro.audit.redteam.redteam`.
    """
    from gro.audit.redteam import redteam  # noqa: PLC0415  a test run that never asks for it loads no torch

    report = redteam(run=Path(run), max_advantage=max_advantage, suite=suite, **settings).report
    worst = report["worst"]
    if not report["passed"]:
        raise AssertionError(
            f"{run} can be stolen: {worst['thief']} gets an access advantage of {worst['access_advantage']} "
            f"(95 % interval {worst['interval']}) with {worst['calls']:,} calls; allowed are {max_advantage}"
        )
    return report
