"""Pictures of a report, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gro.drawing import figure, literal, svg
from gro.evaluation import POPULARITY

MANY = 8
"""Columns of a heat map whose names fit beside each other."""
COLOURS = {"data-free": "C0", "data-limited": "C1", "adaptive": "C3"}


def advantages(report: Mapping[str, Any]) -> str:
    """Access advantage of every thief with its interval, the worst on top."""
    rows = [row for row in report["thieves"] if row["access_advantage"] is not None][::-1]
    drawn = figure(7.0, 1.2 + 0.26 * len(rows))
    axes = drawn.subplots()
    for place, row in enumerate(rows):
        value = row["access_advantage"]
        low, high = row["interval"] or (value, value)
        error = [[max(0, value - low)], [max(0, high - value)]]
        axes.errorbar(value, place, xerr=error, fmt="o", color=COLOURS[row["knowledge"]], capsize=2, markersize=4)
    axes.set_yticks(range(len(rows)), [literal(row["thief"]) for row in rows])
    axes.axvline(1, color="0.6", linewidth=1)
    axes.axvline(0, color="0.6", linewidth=1, linestyle="--")
    if report["max_advantage"] is not None:
        axes.axvline(report["max_advantage"], color="C3", linewidth=1)
    axes.set_xlabel("access advantage: 1 is a perfect copy, 0 what the thief had without a call")
    handles = [axes.plot([], [], "o", color=colour, label=name)[0] for name, colour in COLOURS.items()]
    drawn.legend(handles=handles, loc="outside upper right", ncols=len(handles), fontsize="small")
    return svg(drawn)


def curve(report: Mapping[str, Any]) -> str:
    """The theft curve: quality of the worst thief's copy against the calls it cost."""
    points = report["curve"]
    drawn = figure(5.5, 3.4)
    axes = drawn.subplots()
    calls = [point["calls"] for point in points]
    axes.plot(calls, [100 * point["surrogate"]["ndcg@10"] for point in points], "o-", color="C3", label="copy")
    axes.axhline(100 * report["target"]["ndcg@10"], color="0.3", linewidth=1, label="target")
    floor = next(row["floor"]["ndcg@10"] for row in report["thieves"] if row["thief"] == points[0]["thief"])
    axes.axhline(100 * floor, color="0.6", linewidth=1, linestyle="--", label="floor: no calls")
    axes.set_xscale("log")
    axes.set_xlabel("calls")
    axes.set_ylabel("NDCG@10 %")
    axes.set_title(literal(points[0]["thief"]), fontsize="medium")
    axes.legend(fontsize="small")
    return svg(drawn)


def popularity(report: Mapping[str, Any]) -> str:
    """What part of the target's lists each thief's copy has, by the popularity of the items."""
    rows = report["thieves"]
    cells = [[_number(row["shared_by_popularity"][name]) for name in POPULARITY] for row in rows]
    return heat_map(
        cells, [row["thief"] for row in rows], list(POPULARITY), "items of the target's ten best that the copy has, %"
    )


def heat_map(cells: list[list[float]], rows: list[str], columns: list[str], title: str) -> str:
    """Fractions ``[rows][columns]`` as colours with their percent, 0 at one end and 1 at the other."""
    many = len(columns) > MANY
    drawn = figure(3.6 + (0.36 if many else 0.8) * len(columns), (2.4 if many else 1.2) + 0.26 * len(rows))
    axes = drawn.subplots()
    axes.imshow(np.array(cells, dtype=float), vmin=0, vmax=1, cmap="YlOrRd", aspect="auto")
    names = [literal(column) for column in columns]
    axes.set_xticks(range(len(columns)), names, rotation=45 if many else 0, ha="right" if many else "center")
    axes.set_yticks(range(len(rows)), [literal(row) for row in rows])
    for y, line in enumerate(cells):
        for x, value in enumerate(line):
            if np.isfinite(value):
                dark = "white" if value > 0.6 else "black"
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", color=dark, fontsize="small")
    axes.set_title(title, fontsize="medium")
    return svg(drawn)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
