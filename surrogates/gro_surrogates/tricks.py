"""What a thief does against a defence that it knows: ask around a history, and leave out decoys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gro.models import PADDING
from gro_surrogates.answers import Answers, Caller, compact

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""


@dataclass(frozen=True)
class Fused:
    """Asks several times instead of once and fuses the lists by Borda count: noise of the single list averages out.

    Attributes:
        caller: asks the service.
        repeats: times that the history itself is sent.
        neighbours: times that it is sent without one item, drawn anew, never its last.
        generator: draws the items to leave out.
    """

    caller: Caller
    repeats: int
    neighbours: int
    generator: torch.Generator

    @property
    def price(self) -> int:
        """Calls for one fused list."""
        return self.repeats + self.neighbours

    def __call__(self, histories: Tensor) -> Tensor:
        """Answer histories ``[B, T]`` without padding by fused lists ``[B, k]``, right-padded."""
        sent = [histories] * self.repeats + [self._without_one(histories) for _ in range(self.neighbours)]
        if self.price == 1:
            return self.caller(histories)
        lists = self.caller(torch.cat(sent)).view(self.price, len(histories), -1)
        return borda(lists, self.caller.n_items)

    def _without_one(self, histories: Tensor) -> Tensor:
        size, width = histories.shape
        if width == 1:
            return histories
        out = torch.randint(width - 1, (size, 1), generator=self.generator)
        places = torch.arange(width - 1)
        shorter = histories.gather(1, places + (places >= out).long())
        return torch.nn.functional.pad(shorter, (0, 1))


def borda(lists: Tensor, n_items: int) -> Tensor:
    """Fuse lists ``[m, B, k]``, right-padded, into one of ``[B, k]`` by Borda count; ties go to the lower id.

    An item earns ``k - place`` points (0-based) from every list that names it.
    """
    points = torch.arange(lists.shape[2], 0, -1.0).expand(lists.shape)
    score = torch.zeros(lists.shape[1], n_items + 1)
    for each, earned in zip(lists.long(), points, strict=True):
        score.scatter_add_(1, each, earned)
    score[:, PADDING] = 0
    best = score.sort(dim=1, descending=True, stable=True)
    fused = best.indices[:, : lists.shape[2]].masked_fill(best.values[:, : lists.shape[2]] == 0, PADDING)
    return fused.to(lists.dtype)


def find_decoys(recording: Iterable[Answers], n_items: int, limit: float, held: Tensor | None = None) -> Tensor:
    """Tell the items that are exposed far above their prior: ``[n_items + 1]``, by id.

    The log of an item's exposures, less that of its interactions in the thief's real histories if it holds any, is
    compared to the median over the items: a decoy lies more than ``limit`` robust standard deviations above it.

    Args:
        recording: recorded answers, part by part.
        n_items: size of the catalogue.
        limit: robust standard deviations above the median from which an item is a decoy.
        held: real histories ``[H, L]``, right-padded.
    """
    exposed = torch.zeros(n_items, dtype=torch.int64)
    for answers in recording:
        exposed += answers.lists.flatten().long().bincount(minlength=n_items + 1)[1:]
    prior = torch.zeros(n_items) if held is None else held.flatten().bincount(minlength=n_items + 1)[1:]
    excess = (exposed + 1.0).log() - (prior + 1.0).log()
    spread = (excess - excess.median()).abs().median() * MAD_TO_SIGMA
    decoys = torch.zeros(n_items + 1, dtype=torch.bool)
    decoys[1:] = excess > excess.median() + limit * spread
    return decoys


def without_decoys(answers: Answers, decoys: Tensor) -> Answers:
    """Leave items marked in ``decoys [n_items + 1]`` out of all lists."""
    lists = answers.lists.flatten(0, 1)
    kept = [compact(part, decoys[part.long()]) for part in lists.split(4096)]
    return replace(answers, lists=torch.cat(kept).view(answers.lists.shape))
