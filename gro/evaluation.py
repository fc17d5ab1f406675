"""Reports: what a target is worth to people, and what a copy of it is worth to a thief."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gro.data import HeldOut, Sequences
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
from gro.models import Recommender, TrainableRecommender
from gro.ranking import lists, ranks
from gro.subgroups import by_length, group_loss, least_typical, thirds, typicality

POPULARITY = ("head", "middle", "tail")


def utility_report(model: Recommender, held_out: HeldOut, seed: int = 0) -> dict[str, Any]:
    """Utility of a model on held-out items; see :func:`utility_of`."""
    return utility_of(ranks(model, held_out), seed)


def utility_of(places: IntArray, seed: int = 0) -> dict[str, Any]:
    """Utility where next items have these ``places [n_users]``, with 95 % bootstrap intervals drawn from ``seed``.

    Returns:
        ``{"hr@1": ..., ..., "interval": {"hr@10": [low, high], "ndcg@10": [low, high]}}``.
    """
    measured = {"hr@10": hit_rate(places, 10), "ndcg@10": ndcg(places, 10)}
    return {**utility(places), "interval": {name: list(mean_interval(v, seed=seed)) for name, v in measured.items()}}


def loss_report(plain: TrainableRecommender, served: IntArray, sequences: Sequences, seed: int = 0) -> dict[str, Any]:
    """Who pays for a defence: relative loss of NDCG@10 against a plain target, of all test users and by group.

    Args:
        plain: the plain target, which also says whose histories are typical: the defence must not choose who counts.
        served: place of each test user's next item in the ranking that is served ``[n_users]``.
        sequences: the interactions that both were made from.
        seed: source of the intervals' draws.

    Returns:
        :func:`gro.subgroups.group_loss` of "all", and of each group that is not empty by its name under
        "history_length" (items before the next one), "next_item" (its popularity) and "typicality"
        (:func:`gro.subgroups.typicality`).
    """
    held_out = sequences.test
    before, after = ndcg(ranks(plain, held_out), 10), ndcg(served, 10)
    interactions = np.bincount(sequences.train.items, minlength=sequences.n_items + 1)[1:]
    third = thirds(interactions)[held_out.targets - 1]
    unusual = least_typical(typicality(plain, held_out))
    kinds = {
        "history_length": by_length(held_out.lengths),
        "next_item": {name: third == number for number, name in enumerate(POPULARITY)},
        "typicality": {"least typical tenth": unusual, "rest": ~unusual},
    }
    groups = {
        kind: {name: group_loss(before[who], after[who], seed) for name, who in parts.items() if who.any()}
        for kind, parts in kinds.items()
    }
    return {"all": group_loss(before, after, seed), **groups}


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

    Head, middle and tail are the :func:`gro.subgroups.thirds` of the ``interactions [n_items]``.
    """
    found = (ours[:, :, None] == theirs[:, None, :]).any(axis=2)
    which = np.where(ours > 0, thirds(interactions)[ours - 1], -1)
    return {
        name: float(found[which == number].mean()) if (which == number).any() else None
        for number, name in enumerate(POPULARITY)
    }


def _advantage_bounds(gains: dict[str, FloatArray]) -> list[float] | None:
    bounds = advantage_interval(gains["surrogate"], gains["floor"], gains["target"])
    return list(bounds) if np.isfinite(bounds).all() else None
