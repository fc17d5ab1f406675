"""Reports that are read: Markdown for a pull request, one HTML file for everybody else, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from gro.audit import pictures
from gro.errors import DataError, MissingExtraError


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write a report of :func:`gro.audit.redteam.redteam` as ``report.json``, ``.md`` and ``.html``, and its pictures.

    Raises:
        DataError: the folder cannot be written.
    """
    drawn, environment = _drawn(report), _environment()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        for name, picture in drawn.items():
            (folder / f"{name}.svg").write_text(picture, encoding="utf-8")
        for kind in ("md", "html"):
            text = environment.get_template(f"report.{kind}.jinja").render(**report, pictures=drawn)
            (folder / f"report.{kind}").write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder}: the report cannot be written: {error.strerror or error}") from None


def percent(value: float | None) -> str:
    """Return a fraction in percent with one decimal, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def interval(bounds: list[float] | None) -> str:
    """Return the bounds of an interval in percent."""
    return f"[{percent(bounds[0])}, {percent(bounds[1])}]" if bounds else ""


def cell(text: str) -> str:
    """Return a text that stays in its cell of a Markdown table."""
    return " ".join(text.replace("|", r"\|").split())


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gro.audit"),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "cell": cell}
    return environment


def _drawn(report: Mapping[str, Any]) -> dict[str, str]:
    """The pictures by name, none where matplotlib is not installed."""
    try:
        drawn = {"advantage": pictures.advantages(report), "popularity": pictures.popularity(report)}
        return {**drawn, "curve": pictures.curve(report)} if report["curve"] else drawn
    except MissingExtraError:
        return {}
