"""Defences that need nothing but the list: it is cut, reordered, or some of its items are exchanged."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gro.config import PositiveInt
from gro.defenses.base import Answer, ListPart
from gro.defenses.noise import uniform
from gro.errors import ConfigError
from gro.models import PADDING
from gro.models.base import lengths

Frozen = Annotated[int, Field(ge=0)]


class Truncate(ListPart):
    """Serve only the first ``k`` items: what people look at, and nothing to learn from below."""

    kind: Literal["truncate"] = "truncate"
    k: PositiveInt

    def exposed(self, k: int, n_items: int) -> int:
        """See :meth:`gro.defenses.base.Part.exposed`."""
        if self.k > k:
            raise ConfigError(f"truncate to {self.k}: only {k} items are left at that point; give at most {k}")
        return self.k

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`."""
        return answer.lists[:, : self.k]


class TailPart(ListPart):
    """Leaves the first ``keep`` ranks as they are."""

    keep: Frozen = 0
    """Ranks that are frozen."""

    def exposed(self, k: int, n_items: int) -> int:
        """See :meth:`gro.defenses.base.Part.exposed`."""
        if self.keep >= k:
            raise ConfigError(
                f"{self.name()} freezes the first {self.keep} ranks: only {k} are left; give less than {k}"
            )
        return k


class Shuffle(TailPart):
    """Order the list at random: the baseline "Random" of the GRO paper where nothing is frozen."""

    kind: Literal["shuffle"] = "shuffle"

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`."""
        draw = uniform(answer.keys, answer.lists.shape[1], answer.stream)
        draw[:, : self.keep] = torch.arange(-self.keep, 0, device=draw.device)
        return answer.lists.gather(1, draw.masked_fill(answer.lists == PADDING, 2.0).argsort(dim=1))


class Reverse(TailPart):
    """Serve the worst first: the baseline "Reverse" of the GRO paper where nothing is frozen."""

    kind: Literal["reverse"] = "reverse"

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`."""
        places = torch.arange(answer.lists.shape[1], device=answer.lists.device)
        last = lengths(answer.lists)[:, None] - 1
        turned = (places >= self.keep) & (places <= last)
        return answer.lists.gather(1, torch.where(turned, self.keep + last - places, places))


class TieBlocks(TailPart):
    """Serve blocks of ``size`` ranks in the order of their ids: the order within a block is not told."""

    kind: Literal["tie-blocks"] = "tie-blocks"
    size: Annotated[int, Field(ge=2)]

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`."""
        lists = answer.lists
        places = torch.arange(lists.shape[1], device=lists.device)
        block = torch.where(places < self.keep, places, self.keep + (places - self.keep) // self.size)
        n_items = answer.scores.shape[1]
        ids = lists.masked_fill(lists == PADDING, n_items + 1)
        return lists.gather(1, (block * (n_items + 2) + ids).argsort(dim=1))

    def bits(self, k: int) -> float:
        """Bits of order that a list of ``k`` items loses: the sum of ``log2(size!)`` over its blocks."""
        whole, rest = divmod(max(0, k - self.keep), self.size)
        return (whole * math.lgamma(self.size + 1) + math.lgamma(rest + 1)) / math.log(2)


class Replace(TailPart):
    """Exchange each item, with some probability, for a random one that the list does not hold."""

    kind: Literal["replace"] = "replace"
    probability: Annotated[float, Field(gt=0, le=1)]

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`; where the catalogue has too few others, an item stays."""
        lists, k = answer.lists, answer.lists.shape[1]
        draw = uniform(answer.keys, k + answer.scores.shape[1], answer.stream)
        others = draw[:, k - 1 :].clone().scatter(1, lists, -1.0)
        others[:, PADDING] = -1.0
        best = others.topk(k, dim=1)
        replaced = (draw[:, :k] < self.probability) & (best.values > 0) & (lists != PADDING)
        replaced[:, : self.keep] = False
        return torch.where(replaced, best.indices, lists)
