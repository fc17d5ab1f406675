"""Answers that lead astray unseen: what has changed since some item is told of other items.

From there on the scores are those before it, and beside them all that has changed since, but of items that are as
popular as those which it belongs to. The list goes on from the one before by steps as large as the true ones, which do
not show where it left the truth; and what it says beyond what was said before is wrong.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from gro.defenses.noise import keyed_generator
from gro.models import TrainableRecommender

ALIKE: Final = 32
"""Items of like popularity that are taken for each other."""


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


def astray(model: TrainableRecommender, histories: Tensor, since: Tensor, size: Tensor, others: Tensor) -> Tensor:
    """Scores that lead astray ``[B, n_items]``.

    Args:
        model: whose scores they are.
        histories: of at most ``max_length`` items ``[B, T]``.
        since: items before the one from which on each history is led astray ``[B]``, at least 1.
        size: items that were asked ``[B]``; those behind are not read.
        others: see :func:`others`.
    """
    before, now = model.prefix_scores(histories, torch.stack([since, size], dim=1) - 1).unbind(dim=1)
    return before + (now - before)[:, others]
