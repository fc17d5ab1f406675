"""Bring any model: a module that scores whole histories becomes a recommender that can be robbed and protected."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gro.models.base import TrainableRecommender, expand_prefixes, lengths, most_recent

LOSS_PREFIXES = 4


class ScoredRecommender(TrainableRecommender):
    """A recommender that knows only whole histories: every prefix is a row of its own.

    Subclasses implement :meth:`scores`. Its training loss is the cross entropy at a few random prefixes per window.
    """

    one_pass = False

    @abstractmethod
    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` to ``[B, n_items]``."""

    def prefix_scores(self, histories: Tensor, ends: Tensor) -> Tensor:
        """See :meth:`TrainableRecommender.prefix_scores`."""
        scores = self.scores(expand_prefixes(histories, ends))
        return scores.view(*ends.shape, -1)

    def loss(self, windows: Tensor, context: Tensor | None = None) -> Tensor:
        """Next-item cross entropy after ``LOSS_PREFIXES`` random prefixes of each window; see the base class."""
        first = torch.ones_like(windows[:, :1]) if context is None else context[:, None]
        uniform = torch.rand(len(windows), LOSS_PREFIXES, device=windows.device)
        ends = first - 1 + (uniform * (lengths(windows)[:, None] - first)).long()
        scores = self.prefix_scores(windows, ends)
        return F.cross_entropy(scores.flatten(0, 1), windows.gather(1, ends + 1).flatten() - 1)


class _Adapted(ScoredRecommender):
    def __init__(self, module: nn.Module, n_items: int, max_length: int) -> None:
        super().__init__(n_items, max_length)
        self.module = module

    def scores(self, histories: Tensor) -> Tensor:
        scores: Tensor = self.module(most_recent(histories, self.max_length))
        return scores


def adapt(module: nn.Module, n_items: int, max_length: int) -> ScoredRecommender:
    """Wrap a module that maps right-padded histories ``[B, T]`` to scores ``[B, n_items]``.

    Column ``j`` of the scores belongs to item ``j + 1``. Protection needs the scores to be differentiable.
    """
    return _Adapted(module, n_items, max_length)
