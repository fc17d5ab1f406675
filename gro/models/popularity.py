"""The simplest floor: everyone gets the most popular items."""

from __future__ import annotations

import torch
from torch import Tensor

from gro.data.sequences import Sequences


class Popularity:
    """Scores every item by its number of interactions in ``sequences``, whatever the history."""

    def __init__(self, sequences: Sequences) -> None:
        self.n_items = sequences.n_items
        self.max_length = 1
        self._counts = torch.bincount(torch.from_numpy(sequences.items).long(), minlength=self.n_items + 1)[1:].float()

    def scores(self, histories: Tensor) -> Tensor:
        """Item counts, ``[B, T]`` to ``[B, n_items]``."""
        return self._counts.to(histories.device).expand(len(histories), -1)
