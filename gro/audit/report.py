"""Reports that are read: Markdown for a pull request, one HTML file for everybody else, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gro import reports
from gro.audit import pictures
from gro.errors import MissingExtraError
from gro.reports import environment, percent


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write a report of :func:`gro.audit.redteam.redteam` as ``report.json``, ``.md`` and ``.html``, and its pictures.

    Raises:
        DataError: the folder cannot be written.
    """
    drawn, made = _drawn(report), environment("gro.audit")
    made.filters["interval"] = interval
    files = {"report.json": json.dumps(report, indent=1) + "\n"}
    files |= {f"{name}.svg": picture for name, picture in drawn.items()}
    for kind in ("md", "html"):
        files[f"report.{kind}"] = made.get_template(f"report.{kind}.jinja").render(**report, pictures=drawn)
    reports.write(folder, files)


def interval(bounds: list[float] | None) -> str:
    """Return the bounds of an interval in percent."""
    return f"[{percent(bounds[0])}, {percent(bounds[1])}]" if bounds else ""


def _drawn(report: Mapping[str, Any]) -> dict[str, str]:
    """The pictures by name, none where matplotlib is not installed."""
    try:
        drawn = {"advantage": pictures.advantages(report), "popularity": pictures.popularity(report)}
        return {**drawn, "curve": pictures.curve(report)} if report["curve"] else drawn
    except MissingExtraError:
        return {}
