"""What commands print on stdout: one JSON object, or a table."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table

from gro.cli.settings import Output

Rows = Sequence[Sequence[str]]
Interval = Sequence[float] | None

WIDTH = 10_000
"""Columns of a table that no terminal limits."""
ABSENT = "-"

_FIGURE = re.compile(r"-|-?[\d.,]+( \[.*\])?")


class Terminal(Console):
    """Writes to the stdout of the moment; a reader that has gone is the caller's business."""

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else WIDTH
        super().__init__(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> NoReturn:
        """Let :func:`gro.cli.main` end quietly."""
        raise BrokenPipeError


def show(output: Output, report: Mapping[str, Any], title: str, columns: Sequence[str], rows: Rows) -> int:
    """Print ``report`` as JSON, or the title and a table; return the exit code 0."""
    if output.json_:
        sys.stdout.write(f"{json.dumps(_finite(report), indent=2, allow_nan=False)}\n")
    else:
        print_table(title, columns, rows)
    return 0


def print_table(title: str, columns: Sequence[str], rows: Rows) -> None:
    """Print the title and a table."""
    console = Terminal()
    console.print(title, soft_wrap=True)
    console.print(_table(columns, rows, plain=not console.is_terminal))


def percent(value: float | None, interval: Interval = None) -> str:
    """Return a fraction, and its 95 % interval, in percent: ``13.1 [12.0, 14.2]``."""
    if value is None or not math.isfinite(value):
        return ABSENT
    bounds = f" [{', '.join(f'{100 * bound:.1f}' for bound in interval)}]" if interval else ""
    return f"{100 * value:.2f}{bounds}"


def _table(columns: Sequence[str], rows: Rows, *, plain: bool) -> Table:
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        figures = all(_FIGURE.fullmatch(row[place]) for row in rows)
        table.add_column(column, justify="right" if figures else "left", overflow="fold", no_wrap=figures)
    for row in rows:
        table.add_row(*row)
    return table


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for: nan and infinities by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
