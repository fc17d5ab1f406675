"""Plots of committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from gro.errors import DataError, MissingExtraError


def tradeoff(results: Path) -> Path:
    """Draw ``NAME.json`` as ``NAME.svg`` beside it: NDCG@10 of each target against that of each thief's copy.

    Every seed is a small point, the mean a large one. On the diagonal a copy is as good as its target.

    Raises:
        DataError: the file is missing or is not the result of an experiment.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("plots need matplotlib: pip install gro[plot]") from None
    try:
        rows = pd.DataFrame(json.loads(results.read_text(encoding="utf-8"))["rows"])
        rows = rows[["target", "seed", "thief", "target_ndcg@10", "surrogate_ndcg@10", "floor_ndcg@10"]]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{results}: not the result of an experiment: {error}") from None
    mpl.rcParams["svg.hashsalt"] = "gro"
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    markers = dict(zip(sorted(rows["thief"].unique()), "os^Dv", strict=False))
    for index, (target, of_target) in enumerate(rows.groupby("target", sort=False)):
        for thief, cell in of_target.groupby("thief"):
            points = cell["target_ndcg@10"], cell["surrogate_ndcg@10"]
            axes.scatter(points[0], points[1], s=14, color=f"C{index}", marker=markers[thief], alpha=0.4)
            means = [series.mean() for series in points]
            axes.scatter(
                means[0], means[1], s=90, color=f"C{index}", marker=markers[thief], label=f"{target}, thief: {thief}"
            )
    floor = rows["floor_ndcg@10"].mean()
    ends = [min(floor, rows["surrogate_ndcg@10"].min()), rows["target_ndcg@10"].max()]
    axes.plot(ends, ends, color="0.6", linewidth=1, label="copy as good as target")
    axes.axhline(floor, color="0.6", linestyle="--", linewidth=1, label="floor: popularity, no calls")
    axes.set(xlabel="NDCG@10 of the target (utility)", ylabel="NDCG@10 of the stolen copy")
    figure.legend(loc="outside right upper", fontsize=7)
    picture = results.with_suffix(".svg")
    figure.savefig(picture, metadata={"Date": None})
    return picture
