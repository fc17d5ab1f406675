"""Pictures of committed results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from gro.audit.pictures import heat_map
from gro.drawing import figure, literal, svg
from gro.experiments.run import load

TARGET = itemgetter("dataset", "model", "target")
SETTING = itemgetter("dataset", "model", "calls", "exposed")


def draw(results: Path, beside: Sequence[Mapping[str, Any]] = ()) -> list[Path]:
    """Draw ``NAME.json`` beside it: ``NAME-frontier.svg``, ``NAME-advantage.svg``, and ``NAME-privacy.svg``, if any is.

    Args:
        results: what is drawn.
        beside: other results, whose targets are drawn in the same frontier; see :func:`together`.

    Raises:
        DataError: the file is missing or is not the result of an experiment.
        MissingExtraError: matplotlib is not installed.
    """
    content = load(results)
    drawn = {"frontier": frontier(together(content, beside)), "advantage": advantages(content)}
    if any(entry["privacy"] for entry in content["summary"]):
        drawn["privacy"] = privacy(content)
    pictures = []
    for name, picture in drawn.items():
        pictures.append(results.with_name(f"{results.stem}-{name}.svg"))
        pictures[-1].write_text(picture, encoding="utf-8")
    return pictures


def together(content: Mapping[str, Any], beside: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Results with those of others: of the same dataset, model, calls and exposed k, and of targets not yet there."""
    rows, summary = list(content["rows"]), list(content["summary"])
    settings = {SETTING(entry) for entry in summary}
    for other in beside:
        there = {TARGET(entry) for entry in summary}
        added = [each for each in other["summary"] if SETTING(each) in settings and TARGET(each) not in there]
        new = {TARGET(entry) for entry in added}
        summary += added
        rows += [row for row in other["rows"] if TARGET(row) in new]
    return {"summary": summary, "rows": rows}


def frontier(content: Mapping[str, Any]) -> str:
    """Utility that a target has against what its worst thief's copy has: a small point a seed, a large one the mean.

    Targets of unequal utility can only be compared along such a frontier. On the diagonal a copy is as good as its
    target.
    """
    summary = content["summary"]
    drawn = figure(7.4, max(4.2, 0.17 * len(summary)))
    axes = drawn.subplots()
    for number, entry in enumerate(summary):
        points = _worst_points(content["rows"], entry)
        name = entry["target"] if _one_setting(summary) else f"{_setting(entry)}, {entry['target']}"
        colour = f"C{number % 10}"
        utility, stolen = (np.array(axis) for axis in zip(*points, strict=True))
        axes.scatter(utility, stolen, s=14, color=colour, alpha=0.4)
        axes.scatter(
            utility.mean(), stolen.mean(), s=90, color=colour, marker="osD^v"[number // 10 % 5], label=literal(name)
        )
    ends = [0.0, 100 * max(row["utility"]["ndcg@10"] for row in content["rows"])]
    axes.plot(ends, ends, color="0.6", linewidth=1, label="copy as good as target")
    axes.set(xlabel="NDCG@10 % of the target: utility", ylabel="NDCG@10 % of the worst thief's copy")
    drawn.legend(loc="outside right upper", fontsize=7)
    return svg(drawn)


def advantages(content: Mapping[str, Any]) -> str:
    """Thief by target: mean access advantage in percent."""
    summary = content["summary"]
    thieves = list(dict.fromkeys(row["thief"] for row in content["rows"]))
    found = [{each["thief"]: each["access_advantage"] for each in entry["thieves"]} for entry in summary]
    cells = [[_number(column.get(thief)) for column in found] for thief in thieves]
    names = [entry["target"] if _one_setting(summary) else f"{_setting(entry)}\n{entry['target']}" for entry in summary]
    return heat_map(cells, thieves, names, "access advantage %, mean of the seeds")


def privacy(content: Mapping[str, Any]) -> str:
    """Epsilon of the private targets against their utility, their floor's and their worst thief's copy's."""
    entries = sorted((e for e in content["summary"] if e["privacy"]), key=lambda e: float(e["privacy"]["epsilon"]))
    epsilon = [entry["privacy"]["epsilon"] for entry in entries]
    copies = [_worst_points(content["rows"], entry) for entry in entries]
    lines = {
        "target": [entry["utility"]["ndcg@10"]["mean"] for entry in entries],
        "worst copy": [float(np.mean([copy for _, copy in points])) / 100 for points in copies],
        "floor: no calls": [entry["thieves"][0]["floor_ndcg@10"] for entry in entries],
    }
    drawn = figure(5.5, 3.4)
    axes = drawn.subplots()
    for (name, values), style in zip(lines.items(), ("o-", "s-", "--"), strict=True):
        axes.plot(epsilon, [100 * value for value in values], style, label=name)
    axes.set_xscale("log")
    axes.set(xlabel=f"epsilon, delta {entries[0]['privacy']['delta']:.1e}", ylabel="NDCG@10 %")
    axes.legend(fontsize="small")
    return svg(drawn)


def _worst_points(rows: list[dict[str, Any]], entry: Mapping[str, Any]) -> list[tuple[float, float]]:
    worst: dict[int, tuple[float, float]] = {}
    for row in rows:
        if TARGET(row) == TARGET(entry):
            point = 100 * row["utility"]["ndcg@10"], 100 * row["surrogate"]["ndcg@10"]
            worst[row["seed"]] = max(point, worst.get(row["seed"], point), key=lambda each: each[1])
    return list(worst.values())


def _one_setting(summary: list[dict[str, Any]]) -> bool:
    return len({_setting(entry) for entry in summary}) == 1


def _setting(entry: Mapping[str, Any]) -> str:
    return f"{entry['dataset']} {entry['model']}"


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
