"""Training batches: histories cut into windows so that every interaction is predicted once per pass."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gro.data.sequences import Sequences

BUCKET = 16


class Windows(NamedTuple):
    """A batch of windows: ``items [B, T]``, right-padded, of which the first ``context [B]`` are not predicted."""

    items: Tensor
    context: Tensor

    def to(self, device: torch.device) -> Windows:
        """The same on another device."""
        return Windows(self.items.to(device), self.context.to(device))


def cut(
    sequences: Sequences, length: int, stride: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cut every history into windows of at most ``length + 1`` items, each ``stride`` items further than the last.

    The first cut of a long history falls at a random place, so that passes differ.

    Returns:
        Start and stop of each window in ``sequences.items``, and the number of its leading items that are context:
        the first of a history, or those that an earlier window predicts; all ``[W]``.
    """
    begin, end = sequences.indptr[:-1], sequences.indptr[1:]
    size = end - begin
    long = size > length + 1
    first = np.where(long, rng.integers(length - stride + 1, length + 1, len(size)), size - 1)
    count = 1 + np.where(long, -((size - 1 - first) // -stride), 0)
    user = np.repeat(np.arange(len(size)), count)
    nth = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    last = begin[user] + first[user] + nth * stride
    start = np.maximum(last - length, begin[user])
    stop = np.minimum(last + 1, end[user])
    context = np.where(nth == 0, 1, last - stride + 1 - start)
    useful = stop - start > context
    return start[useful], stop[useful], context[useful]


def thin(sequences: Sequences, share: float, rng: np.random.Generator) -> Sequences:
    """Leave out a random ``share`` of all interactions."""
    kept = rng.random(len(sequences.items)) >= share
    indptr = np.concatenate([[0], np.cumsum(kept)])[sequences.indptr]
    return replace(sequences, indptr=indptr, items=sequences.items[kept])


def batches(
    sequences: Sequences,
    length: int,
    batch_size: int,
    seed: int,
    stride: int | None = None,
    item_dropout: float = 0.0,
) -> list[Windows]:
    """Return one pass of shuffled windows, at most ``batch_size`` together, each of at most ``length + 1`` items.

    Every interaction but the first of each user is predicted once, with at least ``length - stride`` items before it
    where its user has so many; ``stride`` is ``length`` unless given and at most that. A share ``item_dropout`` of the
    interactions, drawn anew, is left out as if it had not happened. Windows of similar size share a batch, so that
    little of it is padding.
    """
    rng = np.random.default_rng(seed)
    sequences = thin(sequences, item_dropout, rng) if item_dropout else sequences
    start, stop, context = cut(sequences, length, min(stride or length, length), rng)
    order = rng.permutation(len(start))
    bucket = np.arange(len(order)) // (BUCKET * batch_size)
    order = order[np.lexsort(((stop - start)[order], bucket))]
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    chosen = (groups[i] for i in rng.permutation(len(groups)))
    return [Windows(_gather(sequences.items, start[w], stop[w]), torch.from_numpy(context[w])) for w in chosen]


def _gather(items: npt.NDArray[np.int32], start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> Tensor:
    position = start[:, None] + np.arange((stop - start).max())
    inside = position < stop[:, None]
    return torch.from_numpy(np.where(inside, items[np.minimum(position, len(items) - 1)], 0).astype(np.int64))
