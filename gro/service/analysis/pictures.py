"""Pictures of a log, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gro.drawing import figure, literal, svg
from gro.service.analysis.counts import SLOTS
from gro.service.analysis.roles import DRAWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OTHERS, FLAGGED, UNUSUAL, BUSIEST = "#4a6f8a", "#c1272d", "#b8741a", "#222222"
WIDE: Final = 7.6
"""Inches."""
LABEL: Final = 22
"""Characters of an account's name in a picture."""
NEAR: Final = 0.25
"""Radians between directions whose names would stand in each other's way."""
SCORES: Final = (1, 4, 10, 20, 50, 100, 200, 500, 1000)
"""At which rings are drawn."""
LATIN: Final = "\u0250"
"""Where the letters end that matplotlib's own font has, with few exceptions."""
UNITS: Final = {"days": 86_400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


def draw(content: Mapping[str, Any]) -> dict[str, str]:
    """Draw everything that the numbers of a report can be drawn of, by name.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    drawn = {"times": times(content), "lengths": lengths(content)}
    if content["popularity"]:
        drawn |= {"popularity": popularity(content), "coverage": coverage(content)}
    if any(content["places"]["others"] + content["places"]["flagged"]):
        drawn["places"] = places(content)
    if content["points"]["accounts"]:
        drawn["points"] = points(content)
    return drawn


def times(content: Mapping[str, Any]) -> str:
    """Calls over time, those of flagged accounts on top of the others."""
    about = content["about"]
    span = about["last"] - about["first"]
    unit = next((name for name, seconds in UNITS.items() if span >= 2 * seconds), "seconds")
    edges = np.linspace(0, (span or 1.0) / UNITS[unit], SLOTS + 1)
    axes = _axes(WIDE, 2.6)
    others, flagged = (np.array(content["times"][kind]) for kind in ("others", "flagged"))
    axes.stairs(others, edges, fill=True, color=OTHERS, label=_others(content))
    if flagged.any():
        axes.stairs(others + flagged, edges, baseline=others, fill=True, color=FLAGGED, label="flagged accounts")
    axes.set(
        xlabel=f"{unit} since {about['from']}", ylabel=f"calls in each {1 / SLOTS:.1%} of the time", xlim=edges[[0, -1]]
    )
    return _finished(axes)


def lengths(content: Mapping[str, Any]) -> str:
    """How long histories are."""
    axes = _axes(WIDE, 2.8)
    _bars(axes, content, "lengths")
    axes.set(xlabel="items in the history", ylabel="share of calls, %")
    return _finished(axes)


def places(content: Mapping[str, Any]) -> str:
    """From which rank of the list just answered the next item was picked."""
    axes = _axes(WIDE, 2.8)
    _bars(axes, content, "places")
    axes.set(xlabel="rank of the next item in the list answered just before", ylabel="share of next items, %")
    return _finished(axes)


def popularity(content: Mapping[str, Any]) -> str:
    """What share of calls and of list entries the most popular items have."""
    axes = _axes(WIDE, 3.2)
    for name, curve in content["popularity"].items():
        places, shares = zip(*curve, strict=True)
        kind, who = name.split(" ", 1)
        label = name if content["about"]["flagged"] else kind
        colour, style = FLAGGED if who.endswith("flagged") else OTHERS, "-" if kind == "asked" else "--"
        axes.plot(places, 100 * np.array(shares), style, color=colour, label=label)
    axes.set(xscale="log", ylim=(0, 103), xlabel="most popular items", ylabel="share that they have, %")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return _finished(axes)


def coverage(content: Mapping[str, Any]) -> str:
    """Different items sent and shown against calls, of some accounts and, as a band, of the others."""
    drawn = figure(WIDE, 4.0)
    panels = drawn.subplots(1, 2, sharey=True)
    for place, (axes, what) in enumerate(zip(panels, ("sent", "shown"), strict=True), 1):
        _plain(axes)
        _band(axes, content["coverage"]["band"], what)
        for each in content["coverage"]["busiest"]:
            label = "busiest of the others" if each["number"] == 1 else None
            axes.plot(*_line(each, place), ":", color=BUSIEST, linewidth=1.3, label=label)
        for each in content["coverage"]["listed"]:
            calls, items = _line(each, place)
            axes.plot(calls, items, color=_accent(content), linewidth=1.5)
            _number(axes, each["number"], (calls[-1], items[-1]), content)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="calls of the account",
            ylabel=f"different items {what}",
            ylim=(0.9, None),
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.0f}")
            axis.set_minor_formatter("")
    for name in _names(content):
        panels[0].plot([], [], color=_accent(content), label=name)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return svg(drawn)


def points(content: Mapping[str, Any]) -> str:
    """Accounts as points: the further out the less usual, in which way by the direction."""
    found, calibration = content["points"]["accounts"], content["calibration"]
    drawn = figure(WIDE, 5.2)
    axes = drawn.add_subplot(projection="polar")
    _scatter(axes, [each for each in found if not _marked(each)], OTHERS, 9, "all other accounts")
    label = "flagged accounts" if calibration else "most unusual accounts"
    _scatter(axes, [each for each in found if _marked(each)], _accent(content), 26, label)
    for each in found:
        if each["number"]:
            _number(axes, each["number"], (each["angle"], math.sqrt(each["score"])), content)
    rings = [calibration["threshold"]] if calibration else []
    for ring in rings:
        whole = np.linspace(0, 2 * np.pi, 200)
        axes.plot(whole, np.full(200, math.sqrt(ring)), color=FLAGGED, linewidth=1.2, label=f"threshold {ring:.2f}")
    for name in _names(content):
        axes.plot([], [], " ", label=name)
    furthest = 1.08 * math.sqrt(max([1.0, *rings, *(each["score"] for each in found)]))
    scores = [score for score in SCORES if math.sqrt(score) < furthest]
    ways = _ways(content["points"]["arrows"])
    axes.set(ylim=(0, furthest), xlim=(0, 2 * np.pi))
    axes.set_yticks([math.sqrt(score) for score in scores], [str(score) for score in scores], fontsize=7, color="0.35")
    axes.set_xticks(list(ways), list(ways.values()), fontsize=8)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines["polar"].set_visible(False)
    drawn.legend(loc="outside right upper", frameon=False, fontsize=8)
    return svg(drawn)


def shown(name: str) -> str:
    """Return an account's name as a picture can show it: short, and in letters that matplotlib's font has."""
    cut = name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"
    return "".join(letter if letter.isprintable() and (letter < LATIN or letter == "…") else "?" for letter in cut)


def _bars(axes: Axes, content: Mapping[str, Any], what: str) -> None:
    """Shares of both kinds of accounts by bucket."""
    found = content[what]
    there = [kind for kind in ("others", "flagged") if any(found[kind])]
    labels = {"others": (_others(content), OTHERS), "flagged": ("flagged accounts", FLAGGED)}
    width = 0.8 / len(there)
    for place, kind in enumerate(there):
        label, colour = labels[kind]
        at = np.arange(len(found["buckets"])) - 0.4 + width * (place + 0.5)
        axes.bar(at, 100 * np.array(found[kind]) / sum(found[kind]), width, label=label, color=colour)
    axes.set_xticks(range(len(found["buckets"])), found["buckets"])


def _band(axes: Axes, rows: Sequence[Mapping[str, Any]], what: str) -> None:
    if rows:
        calls = [row["calls"] for row in rows]
        low, middle, high = np.array([row[what] for row in rows]).T
        axes.fill_between(calls, low, high, color=OTHERS, alpha=0.3, linewidth=0, label="nine in ten of the others")
        axes.plot(calls, middle, color=OTHERS, label="median of the others")


def _scatter(axes: Axes, found: Sequence[Mapping[str, Any]], colour: str, size: int, label: str) -> None:
    if found:
        angles, scores = zip(*((each["angle"], each["score"]) for each in found), strict=True)
        axes.scatter(angles, np.sqrt(scores), s=size, color=colour, alpha=0.6, linewidth=0, label=label)


def _ways(arrows: Sequence[Mapping[str, Any]]) -> dict[float, str]:
    """What grows in which direction; features that grow in almost the same one stand together."""
    ways: dict[float, str] = {}
    for feature, at in sorted(((each["feature"], each["angle"] % (2 * math.pi)) for each in arrows), key=itemgetter(1)):
        near = next((way for way in ways if min(at - way, way + 2 * math.pi - at) < NEAR), None)
        if near is None:
            ways[at] = f"more {feature}"
        else:
            ways[near] += f"\nmore {feature}"
    return ways


def _number(axes: Axes, number: int, at: tuple[float, float], content: Mapping[str, Any]) -> None:
    style: Any = {"color": _accent(content), "fontsize": 9, "fontweight": "bold", "va": "center"}
    axes.annotate(str(number), at, (4, 0), textcoords="offset points", **style)


def _line(account: Mapping[str, Any], place: int) -> tuple[list[int], list[int]]:
    return [point[0] for point in account["points"]], [point[place] for point in account["points"]]


def _marked(account: Mapping[str, Any]) -> bool:
    return bool(account["flagged"] or account["number"])


def _names(content: Mapping[str, Any]) -> list[str]:
    """Accounts that pictures name, by their numbers in the table."""
    return [literal(f"{row['number']}  {shown(row['account'])}") for row in content["listed"][:DRAWN]]


def _accent(content: Mapping[str, Any]) -> str:
    return FLAGGED if content["calibration"] else UNUSUAL


def _others(content: Mapping[str, Any]) -> str:
    return "all other accounts" if content["about"]["flagged"] else "all accounts"


def _axes(width: float, height: float) -> Axes:
    axes: Axes = figure(width, height).subplots()
    _plain(axes)
    return axes


def _plain(axes: Axes) -> None:
    for side in {"top", "right"} & set(axes.spines):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def _finished(axes: Axes) -> str:
    drawn = axes.figure.get_figure(root=True)
    drawn.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=8)
    return svg(drawn)
