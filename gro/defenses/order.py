"""The two baselines of the GRO paper (Zhang et al., WSDM 2024): the right items in the wrong order."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gro.models import Recommender
from gro.ranking import top_k

Order = Literal["random", "reverse"]


class Reordered(nn.Module):
    """A recommender whose ``k`` best items are shuffled anew at every call, or reversed; the others stay behind."""

    def __init__(self, model: Recommender, k: int, order: Order, seed: int) -> None:
        super().__init__()
        self.model = model
        self.n_items = model.n_items
        self.max_length = model.max_length
        self._k, self._order = k, order
        self._generator = torch.Generator().manual_seed(seed)

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` to ``[B, n_items]``."""
        scores = self.model.scores(histories)
        columns = top_k(scores, self._k) - 1
        best = scores.gather(1, columns)
        places = torch.arange(self._k - 1, -1, -1).expand(columns.shape)
        if self._order == "random":
            places = torch.rand(columns.shape, generator=self._generator).argsort(dim=1)
        return scores.scatter(1, columns.gather(1, places.to(columns.device)), best)
