"""The report of a log: one HTML file for whoever reads it, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gro import reports
from gro.errors import ConfigError
from gro.service.analysis import pictures
from gro.service.analysis.numbers import FEW

MADE_BY: Final = "gro logs analyse"
HTML, JSON = "report.html", "report.json"
MOST: Final = 25
"""Accounts in the table of the HTML file; JSON has all of them."""
REASONS: Final = 3
"""Reasons of each there."""


def check(folder: Path) -> None:
    """Check, before a log is read, that a report may be written.

    Raises:
        ConfigError: the folder is a file, or holds anything but an earlier report of a log.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; --out names a folder")
    there = {path.name for path in folder.glob("*")}
    if strange := sorted(there - {HTML, JSON}):
        raise ConfigError(f"{folder}: not replaced: it holds '{strange[0]}'; choose another --out")
    if there and not _ours(folder / JSON):
        raise ConfigError(f"{folder}: not replaced: its report is not one of '{MADE_BY}'; choose another --out")


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the numbers of :func:`gro.service.analysis.numbers.numbers` as ``report.json`` and ``report.html``.

    Raises:
        DataError: the folder cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    made = reports.environment("gro.service.analysis")
    template = made.get_template("report.html.jinja")
    page = template.render(
        **content, made_by=MADE_BY, most=MOST, few=FEW, reasons=REASONS, pictures=pictures.draw(content)
    )
    text = json.dumps({"made_by": MADE_BY, **content}, indent=1, allow_nan=False) + "\n"
    reports.write(folder, {JSON: text, HTML: page})


def _ours(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("made_by") == MADE_BY
