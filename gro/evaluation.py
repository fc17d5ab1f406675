"""Reports: what a target is worth to people, and what a copy of it is worth to a thief."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gro.data import HeldOut
from gro.metrics import (
    FloatArray,
    IntArray,
    access_advantage,
    advantage_interval,
    agreement,
    hit_rate,
    mean_interval,
    ndcg,
    rbo,
    utility,
)
from gro.models import Recommender
from gro.ranking import lists, ranks

POPULARITY = ("head", "middle", "tail")


def utility_report(model: Recommender, held_out: HeldOut, seed: int = 0) -> dict[str, Any]:
    """Utility of a model on held-out items with 95 % bootstrap intervals over users, drawn from ``seed``.

    Returns:
        ``{"hr@1": ..., ..., "interval": {"hr@10": [low, high], "ndcg@10": [low, high]}}``.
    """
    places = ranks(model, held_out)
    measured = {"hr@10": hit_rate(places, 10), "ndcg@10": ndcg(places, 10)}
    return {**utility(places), "interval": {name: list(mean_interval(v, seed=seed)) for name, v in measured.items()}}


def theft_report(
    target: Recommender,
    surrogate: Recommender,
    floors: Mapping[str, Recommender],
    held_out: HeldOut,
    interactions: IntArray,
) -> dict[str, Any]:
    """Compare a stolen copy with its target and with the best that the thief could have had without a call.

    Args:
        target: the recommender that was robbed.
        surrogate: the copy.
        floors: recommenders made without calls, by name; the floor is the best of them in NDCG@10 on ``held_out``.
        held_out: real histories and their next items; every model ranks the full catalogue.
        interactions: number of training interactions of every item ``[n_items]``.

    Returns:
        Utility of the three and the name of the floor, Agr@1, Agr@10 and RBO@10 of copy and target, the part of the
        target's lists that the copy has too by the popularity of the items, the access advantage (``None`` where the
        target is no better than the floor), 95 % bootstrap intervals over users, and under "places" the place of each
        user's next item in each ranking.
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
        "rbo@10": float(rbo(ours, theirs).mean()),
        "shared_by_popularity": shared_by_popularity(ours, theirs, interactions),
        "access_advantage": None if math.isnan(advantage) else advantage,
        "interval": {
            "agreement@10": list(mean_interval(alike)),
            "access_advantage": _advantage_bounds(gains) if not math.isnan(advantage) else None,
        },
        "places": {name: place.tolist() for name, place in places.items()},
    }


def shared_by_popularity(ours: IntArray, theirs: IntArray, interactions: IntArray) -> dict[str, float | None]:
    """What part of the items of our lists ``[n, k]`` is in theirs too, by popularity; ``None`` where we list no such.

    Lists may be right-padded with 0.

    The most popular items that make up a third of the ``interactions [n_items]`` are the head, those that make up the
    next third the middle, the others the tail.
    """
    found = (ours[:, :, None] == theirs[:, None, :]).any(axis=2)
    order = np.argsort(-interactions, kind="stable")
    before = np.cumsum(interactions[order]) - interactions[order]
    third = np.empty(len(interactions), dtype=np.int64)
    third[order] = np.minimum(3 * before // max(1, interactions.sum()), 2)
    which = np.where(ours > 0, third[ours - 1], -1)
    return {
        name: float(found[which == number].mean()) if (which == number).any() else None
        for number, name in enumerate(POPULARITY)
    }


def _advantage_bounds(gains: dict[str, FloatArray]) -> list[float] | None:
    bounds = advantage_interval(gains["surrogate"], gains["floor"], gains["target"])
    return list(bounds) if np.isfinite(bounds).all() else None
