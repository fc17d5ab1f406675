"""``gro datasets``: what is known, and what is here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gro.cli.output import ABSENT, show
from gro.cli.settings import DataPath, Output
from gro.data import Available, available

COLUMNS = ("dataset", "users", "items", "interactions", "licence", "here")


def datasets(settings: Mapping[str, Any], output: Output) -> int:
    """List every dataset that has a card or is on this machine."""
    found = available(DataPath.make(settings).data_path)
    report = {"datasets": [_entry(row) for row in found]}
    title = f"{len(found)} datasets, {sum(row.source is not None for row in found)} of them on this machine"
    return show(output, report, title, COLUMNS, [_row(row) for row in found])


def _entry(row: Available) -> dict[str, Any]:
    return {
        "name": row.name,
        "card": row.card.model_dump(mode="json") if row.card else None,
        "path": str(row.source.path) if row.source else None,
        "origin": row.source.origin if row.source else None,
    }


def _row(row: Available) -> tuple[str, ...]:
    counts = row.card.counts if row.card else None
    figures = [f"{n:,}" for n in (counts.users, counts.items, counts.interactions)] if counts else [ABSENT] * 3
    licence = row.card.licence if row.card else "no card"
    return (row.name, *figures, licence, str(row.source.path) if row.source else ABSENT)
