"""Defences that change what the model reads when it answers: the history's items, or their vectors."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from gro.config import PositiveFloat, Probability
from gro.defenses.base import EmbeddingPart, HistoryPart
from gro.defenses.noise import normal, uniform
from gro.models import PADDING
from gro.models.base import lengths


class HistoryNoise(HistoryPart):
    """Leave items of the history out, or read random ones in their place; the latest is always read as it is."""

    kind: Literal["history-noise"] = "history-noise"
    dropout: Probability = 0.0
    """Probability that an item is left out."""
    substitution: Probability = 0.0
    """Probability that an item that is read is another one."""

    def histories(self, histories: Tensor, n_items: int, keys: Tensor, stream: int) -> Tensor:
        """See :meth:`gro.defenses.base.HistoryPart.histories`."""
        width = histories.shape[1]
        drop, swap, other = uniform(keys, 3 * width, stream).view(-1, width, 3).unbind(dim=2)  # alike for every width
        places = torch.arange(width, device=histories.device)
        earlier = places < lengths(histories)[:, None] - 1
        read = torch.where(earlier & (swap < self.substitution), 1 + (other * n_items).long(), histories)
        read = read.masked_fill(earlier & (drop < self.dropout), PADDING)
        return read.gather(1, (read == PADDING).long().argsort(dim=1, stable=True))


class EmbeddingNoise(EmbeddingPart):
    """Add normal noise to the vectors of the history's items."""

    kind: Literal["embedding-noise"] = "embedding-noise"
    scale: PositiveFloat
    """Standard deviation, in root mean squares of the item table."""

    def embeddings(self, vectors: Tensor, table: Tensor, keys: Tensor, stream: int) -> Tensor:
        """See :meth:`gro.defenses.base.EmbeddingPart.embeddings`."""
        noise = normal(keys, vectors[0].numel(), stream).view_as(vectors)
        return vectors + noise * self.scale * table.square().mean().sqrt()


class EmbeddingScale(EmbeddingPart):
    """Normalise the vectors of the history's items to one length."""

    kind: Literal["embedding-scale"] = "embedding-scale"
    length: Annotated[float, Field(gt=0)] = 1.0
    """That length, in mean lengths of the item table's rows."""

    def embeddings(self, vectors: Tensor, table: Tensor, keys: Tensor, stream: int) -> Tensor:
        """See :meth:`gro.defenses.base.EmbeddingPart.embeddings`; padding, whose vector is 0, stays 0."""
        return F.normalize(vectors, dim=-1) * self.length * table.square().sum(dim=1).sqrt().mean()
