"""Answers that lead astray unseen: what is new since some item is told of other items.

The scores after a history are split into what can be put together from those that were told before that item, which
stays, and the rest, which is told of other items that are as popular. That turns the rest away and leaves its size as
it was, and nearly so its angle to all that was told before: distances between lists hardly show where they left the
truth.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from gro.defenses.noise import keyed_generator
from gro.models import TrainableRecommender

ALIKE: Final = 32
"""Items of like popularity that are taken for each other."""
TOLD: Final = 8
"""Answers before that the new one is held against."""
RIDGE: Final = 1e-3
"""Of the mean square of those, added to them: answers that are hardly different give no share of their own."""


def others(popularity: Tensor, secret: bytes) -> Tensor:
    """The item that passes for each item, by place: a permutation ``[n_items]`` that only the secret tells.

    Args:
        popularity: of each item ``[n_items]``.
        secret: 1 to 64 bytes.
    """
    order = popularity.cpu().argsort(descending=True, stable=True)
    drawn = torch.rand(len(order), generator=keyed_generator(b"others", secret), dtype=torch.float64)
    found = torch.empty_like(order)
    found[order] = order[(torch.arange(len(order)) // ALIKE + drawn).argsort()]
    return found.to(popularity.device)


def sparing(others: Tensor, histories: Tensor) -> Tensor:
    """The item that passes for each item ``[B, n_items]`` where nothing passes for what is in the histories ``[B, T]``.

    A thief looks for what he asked: each item of a history keeps its place, and the one that passed for it is passed
    over, so that every row is a permutation still.
    """
    items = torch.arange(len(others), device=others.device)
    there = torch.zeros(len(histories), len(others) + 1, dtype=torch.bool, device=others.device)
    there = there.scatter(1, histories, value=True)[:, 1:]
    found = others.expand(len(histories), -1)
    while (taken := there.gather(1, found) & ~there).any():
        found = torch.where(taken, others[found], found)
    return torch.where(there, items, found)


def astray(
    model: TrainableRecommender, histories: Tensor, since: Tensor, size: Tensor, certain: Tensor, others: Tensor
) -> Tensor:
    """Scores that lead astray ``[B, n_items]``.

    Args:
        model: whose scores they are.
        histories: of at most ``max_length`` items ``[B, T]``.
        since: items before the one from which on each history is led astray ``[B]``, at least 1.
        size: items that were asked ``[B]``; those behind are not read.
        certain: whom everything is told of other items, seen or not ``[B]``.
        others: see :func:`others`.
    """
    place = torch.arange(histories.shape[1], device=histories.device)
    asked = histories * (place < size[:, None])
    told = (since[:, None] - 1 - torch.arange(TOLD, device=histories.device)).clamp(min=0)
    scores = model.prefix_scores(asked, torch.cat([told, size[:, None] - 1], dim=1))
    of_others = scores.gather(2, sparing(others, asked)[:, None].expand_as(scores))
    before, now = (scores - of_others).split([TOLD, 1], dim=1)
    products = before @ before.mT
    ridge = RIDGE * products.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    ridge = ridge.clamp(min=torch.finfo(ridge.dtype).tiny)
    share = torch.linalg.solve(products + ridge * torch.eye(TOLD, device=products.device), before @ now.mT)
    unseen = (of_others[:, -1:] + share.mT @ before)[:, 0]
    return torch.where(certain[:, None], scores[:, -1, others], unseen)
