"""Which item people go on to after which: a small model of a clean log that says how plausible a history is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

from gro.errors import DataError
from gro.service.monitor.hashing import Items

DIMENSIONS: Final = 16
CONTEXT: Final = 5
"""Items before the next one that are looked at."""
REFERENCES: Final = 64
"""Items that the next one is compared with."""
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Background:
    """Item vectors from the positive pointwise mutual information of items near each other (Levy & Goldberg, 2014).

    Attributes:
        items: known item ids ``[N]``, ascending.
        vectors: of each ``[N, DIMENSIONS]``.
        references: places of the items ``[REFERENCES]`` that others are compared with.
    """

    items: Items
    vectors: Vectors
    references: npt.NDArray[np.int64]

    @classmethod
    def fit(cls, histories: Iterable[Items]) -> Self:
        """Learn from whole histories.

        Raises:
            DataError: they hold too few different items.
        """
        rows = [np.asarray(history, np.int64) for history in histories]
        items = np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)
        if len(items) <= DIMENSIONS:
            raise DataError(f"the log holds {len(items)} different items; a background needs more than {DIMENSIONS}")
        near = _counts([np.searchsorted(items, row) for row in rows], len(items))
        vectors = _factors(near)
        generator = np.random.default_rng(0)
        return cls(items, vectors, generator.choice(len(items), min(REFERENCES, len(items)), replace=False))

    def plausibility(self, history: Items, new: int) -> float | None:
        """Say how plausible the last ``new`` items are after those before them.

        Returns:
            The share of reference items that would have been less plausible, a mean over the new items; people are
            well above a half, random histories at it. ``None`` where nothing can be said.
        """
        history = history[-(CONTEXT + new) :]
        first = max(1, len(history) - new)
        places = np.minimum(self.items.searchsorted(history), len(self.items) - 1)
        known = self.items[places] == history
        context = _contexts(len(history))[first:]
        told = known[first:] & (context @ known > 0)
        if not (n := np.count_nonzero(told)):
            return None
        vectors = self.vectors.take(places, axis=0) * known[:, None]
        liked = context @ vectors
        above = np.sign(np.vecdot(liked, vectors[first:])[:, None] - liked @ self._compared.T)
        above[self.references == places[first:, None]] = 0
        return 0.5 + 0.5 * float((told @ above).sum()) / (n * len(self.references))

    @cached_property
    def _compared(self) -> Vectors:
        return self.vectors[self.references]


@cache
def _contexts(length: int) -> Vectors:
    """Ones where item ``j`` of a history is looked at for item ``i``: ``[length, length]``."""
    return np.tri(length, k=-1, dtype=np.float32) - np.tri(length, k=-1 - CONTEXT, dtype=np.float32)


def _counts(rows: list[npt.NDArray[np.intp]], n_items: int) -> sparse.csr_array:
    pairs = [(row[:-step], row[step:]) for row in rows for step in range(1, CONTEXT + 1) if len(row) > step]
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    counts = sparse.coo_array((np.ones(len(one)), (one, other)), shape=(n_items, n_items)).tocsr()
    return sparse.csr_array(counts + counts.T)


def _factors(counts: sparse.csr_array) -> Vectors:
    total, margins = counts.sum(), np.asarray(counts.sum(axis=0)).ravel()
    cells = counts.tocoo()
    smoothed = margins**0.75
    expected = margins[cells.row] * smoothed[cells.col] / smoothed.sum()
    values = np.log(np.maximum(cells.data / np.maximum(expected, 1e-12), 1.0)) if total else cells.data
    information = sparse.coo_array((values, (cells.row, cells.col)), shape=counts.shape).tocsr()
    left, strengths, _ = svds(information, k=DIMENSIONS, v0=np.ones(counts.shape[0]))
    return np.ascontiguousarray(left * np.sqrt(strengths), np.float32)
