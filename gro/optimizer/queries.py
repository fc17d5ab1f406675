"""The histories whose lists GRO attacks: real ones, a thief's, or both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gro.data.windows import Windows
from gro.models import TrainableRecommender, padded

MOST = 320
"""Histories that thieves grow for a pass, at most."""


class Thieves(Protocol):
    """Thieves who ask a target."""

    def __call__(self, target: TrainableRecommender, count: int, k: int, seed: int) -> Tensor:
        """Histories ``[count, max_length]`` that they grow with its lists of ``k`` items, in no order."""
        ...


def attacked(windows: Sequence[Windows], histories: Tensor, *, real: bool) -> Iterator[Tensor]:
    """For each batch of windows as many of the ``histories [N, T]``, in turn: ``[B, T']``, right-padded.

    With ``real`` every second window stays.
    """
    at = 0
    for items, _ in windows:
        kept = items[::2] if real else items[:0]
        rows = torch.arange(at, at + len(items) - len(kept)) % len(histories)
        at += len(rows)
        yield padded([*kept, *histories[rows]])
