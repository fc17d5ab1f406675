"""Groups of people, and what each of them loses.

A defence that costs little on average may be paid for by a few: those with short histories, those who want what is
rare, those whose histories are unusual. To compare groups of users instead of means is user-oriented fairness (Li et
al., WWW 2021).

Groups are masks over users ``[n_users]``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from gro.data import HeldOut
from gro.metrics import FloatArray, IntArray, loss_interval
from gro.models import PADDING, TrainableRecommender
from gro.models.base import device_of
from gro.ranking import BATCH, evaluating

BoolArray = npt.NDArray[np.bool_]

LENGTHS: Final = (10, 20, 50, 100)
"""Longest histories of all groups by length but the last."""
TOGETHER: Final = 1 << 23
"""Scores that are looked at at a time, at most."""


def by_length(lengths: IntArray) -> dict[str, BoolArray]:
    """Groups by number of items ``[n_users]``: "at most 10", "11 to 20" and so on."""
    between = (f"{shorter + 1} to {longest}" for shorter, longest in pairwise(LENGTHS))
    names = (f"at most {LENGTHS[0]}", *between, f"more than {LENGTHS[-1]}")
    group = np.searchsorted(LENGTHS, lengths)
    return {name: group == number for number, name in enumerate(names)}


def thirds(interactions: IntArray) -> IntArray:
    """Which third of the ``interactions [n_items]`` each item belongs to, the most popular ones first: ``[n_items]``.

    The most popular items that make up a third of the interactions are 0, the head; those that make up the next third
    are 1, the middle; the others are 2, the tail. Of equally popular items the lower id comes first.
    """
    order = np.argsort(-interactions, kind="stable")
    before = np.cumsum(interactions[order]) - interactions[order]
    third = np.empty(len(interactions), dtype=np.int64)
    third[order] = np.minimum(3 * before // max(1, interactions.sum()), 2)
    return third


def typicality(model: TrainableRecommender, held_out: HeldOut) -> FloatArray:
    """Mean log likelihood of every user's items, each after those before it, by a model's softmax: ``[n_users]``.

    Of the last ``max_length`` items before the held-out one, all but the first; inf where there is only one.
    """
    width = max(1, min(int(held_out.lengths.max(initial=1)), model.max_length) - 1)
    prefixes = max(1, min(TOGETHER // model.n_items, BATCH * (width if model.one_pass else 1)))
    order, rows = np.argsort(held_out.lengths, kind="stable"), max(1, prefixes // width)
    found = np.empty(len(order))
    with evaluating(model):
        for users in (order[start : start + rows] for start in range(0, len(order), rows)):
            histories = torch.from_numpy(held_out.histories(users, model.max_length)).to(device_of(model))
            found[users] = _mean_log_likelihood(model, histories, prefixes).cpu()
    return found


def least_typical(typicality: FloatArray) -> BoolArray:
    """Which tenth of the users, rounded down, has the least :func:`typicality`; of equals, those who come first.

    Who has no history to be judged by (inf) is typical.
    """
    lowest = np.argsort(typicality, kind="stable")[: len(typicality) // 10]
    found = np.zeros(len(typicality), dtype=np.bool_)
    found[lowest] = typicality[lowest] < np.inf
    return found


def group_loss(plain: FloatArray, served: FloatArray, seed: int = 0) -> dict[str, Any]:
    """What a group loses whose gains, such as NDCG@10, go from ``plain [n]`` to ``served [n]``; at least one user.

    Returns:
        ``{"users": n, "plain": mean, "served": mean, "loss": relative loss, "interval": [low, high], "gross": loss of
        those who lose}``: the losses, parts of all plain gains, are ``None`` where these are all 0, the 95 % bootstrap
        interval of the net one also for one user.
    """
    before, after = float(plain.mean()), float(served.mean())
    bounds = loss_interval(plain, served, seed=seed) if before and len(plain) > 1 else None
    return {
        "users": len(plain),
        "plain": before,
        "served": after,
        "loss": 1 - after / before if before else None,
        "interval": None if bounds is None else list(bounds),
        "gross": float((plain - served).clip(min=0).mean()) / before if before else None,
    }


def _mean_log_likelihood(model: TrainableRecommender, histories: Tensor, prefixes: int) -> Tensor:
    """Of ``histories [B, T]``: ``[B]``, in 64 bits; their prefixes are scored by so many of a history at a time."""
    following = histories[:, 1:]
    ends = torch.arange(following.shape[1], device=histories.device).expand_as(following)
    total = histories.new_zeros(len(histories), dtype=torch.float64)
    for start in range(0, following.shape[1], prefixes):
        part = slice(start, start + prefixes)
        scores, columns = model.prefix_scores(histories, ends[:, part]), following[:, part] - 1
        losses = F.cross_entropy(
            scores.flatten(0, 1), columns.flatten(), ignore_index=PADDING - 1, reduction="none"
        ).view_as(columns)
        total -= losses.sum(dim=1, dtype=torch.float64)
    judged = (following != PADDING).sum(dim=1)
    return torch.where(judged > 0, total / judged.clamp(min=1), torch.inf)
