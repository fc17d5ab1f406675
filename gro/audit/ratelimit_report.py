"""The report of a rate-limit simulation: JSON for machines, Markdown and a picture for whoever decides on a policy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gro import reports
from gro.drawing import figure, literal, svg
from gro.errors import MissingExtraError
from gro.reports import environment


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write a report of :func:`gro.audit.ratelimit.ratelimit` as ``report.json`` and ``report.md``, and ``curve.svg``.

    Raises:
        DataError: the folder cannot be written.
    """
    picture = _drawn(report)
    made = environment("gro.audit")
    made.filters["amount"] = amount
    text = made.get_template("ratelimit.md.jinja").render(**report, drawn=bool(picture))
    files = {"report.json": json.dumps(report, indent=1) + "\n", "report.md": text}
    reports.write(folder, files | ({"curve.svg": picture} if picture else {}))


def curve(report: Mapping[str, Any]) -> str:
    """Access advantage of the worst thief against days, and against cost where that grows; dots were played.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = report["rows"]
    known = [[point for point in points if point["access_advantage"] is not None] for points in (report["curve"], rows)]
    what = ("days", "cost") if rows[-1]["cost"] > rows[0]["cost"] else ("days",)
    drawn = figure(1.2 + 3.8 * len(what), 3.4)
    panels = drawn.subplots(1, len(what), sharey=True, squeeze=False)[0]
    for axes, axis in zip(panels, what, strict=True):
        for points, style in zip(known, ("-", "o"), strict=True):
            axes.plot([p[axis] for p in points], [100 * p["access_advantage"] for p in points], style, color="C3")
        axes.axhline(100, color="0.6", linewidth=1)
        axes.axhline(0, color="0.6", linewidth=1, linestyle="--")
        axes.set_xlabel(axis)
    panels[0].set_xscale("log")
    panels[0].xaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("access advantage % of the worst thief")
    drawn.suptitle(literal(f"policy {report['policy']}: 100 is a perfect copy, 0 no call"), fontsize="medium")
    return svg(drawn)


def amount(value: float) -> str:
    """Return a number with three figures or more: ``0.0125``, ``3.14``, ``12,345``."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _drawn(report: Mapping[str, Any]) -> str:
    """The picture, empty where there is nothing to show or matplotlib is not installed."""
    if report["worst"]["access_advantage"] is None:
        return ""
    try:
        return curve(report)
    except MissingExtraError:
        return ""
