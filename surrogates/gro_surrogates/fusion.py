"""Several clones as one: their rankings fused."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gro.models import StateRecommender

SMOOTHING = 60
"""The constant of reciprocal rank fusion, as published."""


class RankFusion(nn.Module):
    """Reciprocal rank fusion (Cormack, Clarke & Buettcher, SIGIR 2009): an item scores ``sum_c 1 / (60 + rank_c)``."""

    def __init__(self, clones: Sequence[StateRecommender]) -> None:
        super().__init__()
        self.clones = nn.ModuleList(clones)
        self.n_items = clones[0].n_items
        self.max_length = max(clone.max_length for clone in clones)

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` to ``[B, n_items]``."""
        return torch.stack([_reciprocal(clone.scores(histories)) for clone in self.clones]).sum(dim=0)  # type: ignore[operator]


def _reciprocal(scores: Tensor) -> Tensor:
    """``1 / (60 + rank)`` of every score ``[B, n]``; ties go to the lower id."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    ranks = torch.arange(1.0, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    return torch.empty_like(scores).scatter(1, order, (1 / (SMOOTHING + ranks)).expand(scores.shape))
