"""Answers that lead astray unseen.

Who was never told the truth hears of another catalogue, in which each item has the name of one that is as popular. All
that is said there agrees with itself as the truth does.

Who was told the truth until some item would see that change. The scores after his history are split into what can be
put together from those before that item, which stays, and the rest, which is told of other items. That turns the rest
away and leaves its size as it was, and nearly so its angle to what was told before: distances between lists hardly show
where they left the truth. From item to item he is led to that other catalogue.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from gro.defenses.noise import keyed_generator
from gro.models import Recommender, TrainableRecommender
from gro.models.base import lengths

ALIKE: Final = 32
"""Items of like popularity that are taken for each other."""
TOLD: Final = 8
"""Scores before that the new ones are held against; as many items later nothing is left of them."""
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


def held(histories: Tensor, n_items: int) -> Tensor:
    """Which items of the catalogue are in each history: ``[B, T]`` to ``[B, n_items]``."""
    there = torch.zeros(len(histories), n_items + 1, dtype=torch.bool, device=histories.device)
    return there.scatter(1, histories, value=True)[:, 1:]


def sparing(others: Tensor, histories: Tensor) -> Tensor:
    """The item that passes for each item ``[B, n_items]`` where nothing passes for what is in the histories ``[B, T]``.

    A thief looks for what he asked: each item of a history keeps its place, and the one that passed for it is passed
    over, so that every row is a permutation still.
    """
    items = torch.arange(len(others), device=others.device)
    there = held(histories, len(others))
    found = others.expand(len(histories), -1)
    while (taken := there.gather(1, found) & ~there).any():
        found = torch.where(taken, others[found], found)
    return torch.where(there, items, found)


def renamed(others: Tensor, histories: Tensor) -> Tensor:
    """Histories ``[B, T]`` where each item is the one that passes for it."""
    return F.pad(others + 1, (1, 0))[histories]


def elsewhere(model: Recommender, histories: Tensor, others: Tensor) -> Tensor:
    """Scores ``[B, n_items]`` after histories ``[B, T]`` of a catalogue in which each item has the name of another."""
    return model.scores(renamed(others, histories))[:, others]


def unseen(model: TrainableRecommender, histories: Tensor, since: Tensor, others: Tensor) -> Tensor:
    """Scores ``[B, n_items]`` that leave the truth where nothing shows; as :func:`astray`."""
    told = (since[:, None] - 1 - torch.arange(TOLD, device=histories.device)).clamp(min=0)
    scores = model.prefix_scores(histories, torch.cat([told, lengths(histories)[:, None] - 1], dim=1))
    of_others = scores.gather(2, sparing(others, histories)[:, None].expand_as(scores))
    before, now = (scores - of_others).split([TOLD, 1], dim=1)
    products = before @ before.mT
    ridge = RIDGE * products.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    ridge = ridge.clamp(min=torch.finfo(ridge.dtype).tiny)
    share = torch.linalg.solve(products + ridge * torch.eye(TOLD, device=products.device), before @ now.mT)
    found: Tensor = of_others[:, -1:] + share.mT @ before
    return found[:, 0]


def astray(model: TrainableRecommender, histories: Tensor, since: Tensor, short: int, others: Tensor) -> Tensor:
    """Scores that lead astray ``[B, n_items]``.

    Args:
        model: whose scores they are.
        histories: of at most ``max_length`` items ``[B, T]``.
        since: items before those from which on each history is led astray ``[B]``.
        short: items of the longest history that the model has told nothing of.
        others: see :func:`others`.
    """
    scores = elsewhere(model, histories, others)
    if (told := since > short).any():
        away = ((lengths(histories) - since - 1)[told] / TOLD).clamp(max=1)[:, None].to(scores.dtype)
        scores[told] = unseen(model, histories[told], since[told], others).lerp(scores[told], away)
    return scores
