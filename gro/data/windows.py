"""Training batches: histories cut into windows so that every interaction is predicted once per pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gro.data.sequences import Sequences

BUCKET = 16


def cut(sequences: Sequences, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut every history into windows of at most ``length + 1`` items that overlap by one.

    The first cut of a long history falls at a random place, so that passes differ.

    Returns:
        Start and stop of each window in ``sequences.items``, both ``[W]``.
    """
    begin, end = sequences.indptr[:-1], sequences.indptr[1:]
    size = end - begin
    long = size > length + 1
    first = np.where(long, rng.integers(1, length + 1, len(size)), size - 1)
    count = 1 + np.where(long, -((size - 1 - first) // -length), 0)
    user = np.repeat(np.arange(len(size)), count)
    nth = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    last = begin[user] + first[user] + nth * length
    start = np.where(nth == 0, begin[user], last - length)
    stop = np.minimum(last + 1, end[user])
    useful = stop - start > 1
    return start[useful], stop[useful]


def batches(sequences: Sequences, length: int, batch_size: int, seed: int) -> list[Tensor]:
    """Return one pass of shuffled windows ``[B, T]``, right-padded, ``B <= batch_size``, ``T <= length + 1``.

    Windows of similar size share a batch, so that little of it is padding.
    """
    rng = np.random.default_rng(seed)
    start, stop = cut(sequences, length, rng)
    order = rng.permutation(len(start))
    bucket = np.arange(len(order)) // (BUCKET * batch_size)
    order = order[np.lexsort(((stop - start)[order], bucket))]
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [_gather(sequences.items, start[groups[i]], stop[groups[i]]) for i in rng.permutation(len(groups))]


def _gather(items: np.ndarray, start: np.ndarray, stop: np.ndarray) -> Tensor:
    column = np.arange((stop - start).max())
    position = start[:, None] + column
    inside = position < stop[:, None]
    return torch.from_numpy(np.where(inside, items[np.minimum(position, len(items) - 1)], 0).astype(np.int64))
