"""What the rows of an experiment say: means over seeds with their intervals, and the worst thief of every target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from gro.experiments.card import Experiment, ExperimentCard

Rows = Sequence[dict[str, Any]]


def summarise(experiment: Experiment, rows: Rows) -> list[dict[str, Any]]:
    """Return an entry for every target of every block that has rows.

    Each has the target's utility, its loss, and under "thieves" every thief's access advantage, the worst mean first.
    The access advantage of a seed whose target is no better than the floor has no meaning and is left out of the mean.
    Intervals are 95 % t-intervals over seeds, ``None`` for fewer than two.

    Raises:
        ValueError: rows of one target differ in exposed k.
    """
    found = []
    for block in experiment.blocks:
        for target in block.targets:
            own = [row for row in rows if (row["dataset"], row["model"]) == (block.dataset, block.model)]
            own = [row for row in own if row["target"] == target.name]
            if own:
                found.append(_entry(block, target.name, own))
    return found


def _entry(block: ExperimentCard, target: str, rows: Rows) -> dict[str, Any]:
    if len({(row["k"], row["exposed"]) for row in rows}) > 1:
        raise ValueError(f"{target}: its rows differ in exposed k")
    thieves = [
        _thief([row for row in rows if row["thief"] == name]) for name in dict.fromkeys(r["thief"] for r in rows)
    ]
    thieves.sort(key=lambda thief: -math.inf if thief["access_advantage"] is None else -thief["access_advantage"])
    thieves.sort(key=lambda thief: thief["access_advantage"] is None)
    by_seed = {row["seed"]: row for row in rows}
    return {
        "dataset": block.dataset,
        "model": block.model,
        "target": target,
        "k": rows[0]["k"],
        "exposed": rows[0]["exposed"],
        "calls": block.calls,
        "seeds": sorted(by_seed),
        "privacy": rows[0].get("privacy"),
        "utility": {key: interval([row["utility"][key] for row in by_seed.values()]) for key in rows[0]["utility"]},
        "utility_loss": interval([row["utility_loss"] for row in by_seed.values()]),
        "worst": thieves[0]["thief"],
        "worst_of_each_seed": interval(_worst_of_each_seed(rows)),
        "thieves": thieves,
    }


def _thief(rows: Rows) -> dict[str, Any]:
    advantage = interval([row["access_advantage"] for row in rows])
    return {
        "thief": rows[0]["thief"],
        "knowledge": rows[0]["knowledge"],
        "known": rows[0]["known"],
        "seeds": len(rows),
        "access_advantage": advantage["mean"],
        "interval": advantage["interval"],
        "surrogate": {key: interval([row["surrogate"][key] for row in rows]) for key in rows[0]["surrogate"]},
        "floor_ndcg@10": float(np.mean([row["floor"]["ndcg@10"] for row in rows])),
        "agreement@10": float(np.mean([row["agreement@10"] for row in rows])),
        "rbo@10": float(np.mean([row["rbo@10"] for row in rows])),
    }


def _worst_of_each_seed(rows: Rows) -> list[float | None]:
    worst: dict[int, float] = {}
    for row in rows:
        if (advantage := row["access_advantage"]) is not None:
            worst[row["seed"]] = max(advantage, worst.get(row["seed"], -math.inf))
    return list(worst.values())


def interval(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and 95 % t-interval over seeds of what has a value: ``{"mean": ..., "interval": [low, high] or None}``."""
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return {"mean": None, "interval": None, "n": 0}
    mean = float(known.mean())
    if len(known) < 2:
        return {"mean": mean, "interval": None, "n": 1}
    half = float(stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return {"mean": mean, "interval": [mean - half, mean + half], "n": len(known)}
