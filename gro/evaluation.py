"""Reports: what a target is worth to people, and what a copy of it is worth to a thief."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gro.data import HeldOut
from gro.metrics import (
    FloatArray,
    access_advantage,
    advantage_interval,
    agreement,
    hit_rate,
    mean_interval,
    ndcg,
    utility,
)
from gro.models import Recommender
from gro.ranking import lists, ranks


def utility_report(model: Recommender, held_out: HeldOut, seed: int = 0) -> dict[str, Any]:
    """Utility of a model on held-out items with 95 % bootstrap intervals over users, drawn from ``seed``.

    Returns:
        ``{"hr@1": ..., ..., "interval": {"hr@10": [low, high], "ndcg@10": [low, high]}}``.
    """
    places = ranks(model, held_out)
    measured = {"hr@10": hit_rate(places, 10), "ndcg@10": ndcg(places, 10)}
    return {**utility(places), "interval": {name: list(mean_interval(v, seed=seed)) for name, v in measured.items()}}


def theft_report(
    target: Recommender, surrogate: Recommender, floors: Mapping[str, Recommender], held_out: HeldOut
) -> dict[str, Any]:
    """Compare a stolen copy with its target and with the best that the thief could have had without a call.

    Args:
        target: the recommender that was robbed.
        surrogate: the copy.
        floors: recommenders made without calls, by name; the floor is the best of them in NDCG@10 on ``held_out``.
        held_out: real histories and their next items; every model ranks the full catalogue.

    Returns:
        Utility of the three and the name of the floor, Agr@1 and Agr@10 of copy and target, the access advantage
        (``None`` where the target is no better than the floor) and 95 % bootstrap intervals over users.
    """
    floor_places = {name: ranks(floor, held_out) for name, floor in floors.items()}
    best = max(floor_places, key=lambda name: float(ndcg(floor_places[name], 10).mean()))
    places = {"target": ranks(target, held_out), "surrogate": ranks(surrogate, held_out), "floor": floor_places[best]}
    gains = {name: ndcg(place, 10) for name, place in places.items()}
    ours, theirs = (lists(model, held_out, min(10, target.n_items)) for model in (target, surrogate))
    alike = agreement(ours, theirs, ours.shape[1])
    advantage = access_advantage(*(float(gains[name].mean()) for name in ("surrogate", "floor", "target")))
    return {
        **{name: utility(place) for name, place in places.items()},
        "floor_is": best,
        "agreement@1": float(agreement(ours, theirs, 1).mean()),
        "agreement@10": float(alike.mean()),
        "access_advantage": None if math.isnan(advantage) else advantage,
        "interval": {
            "agreement@10": list(mean_interval(alike)),
            "access_advantage": _advantage_bounds(gains) if not math.isnan(advantage) else None,
        },
    }


def _advantage_bounds(gains: dict[str, FloatArray]) -> list[float] | None:
    bounds = advantage_interval(gains["surrogate"], gains["floor"], gains["target"])
    return list(bounds) if np.isfinite(bounds).all() else None
