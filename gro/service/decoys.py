"""Decoys: lists that look like the service's and lead astray, the same ones whenever the same history is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class Decoys:
    """Exchanges the names of the catalogue's items: what a copy learns from the lists belongs to other items.

    The lists of adaptive misinformation (Kariyappa & Qureshi, CVPR 2020), without a model of their own.
    """

    def __init__(self, secret: bytes, n_items: int) -> None:
        """Exchange names of items 1..n_items as ``secret`` says."""
        seed = int.from_bytes(hashlib.blake2b(secret, digest_size=16, person=b"gro decoys").digest(), "big")
        order = np.random.default_rng(seed).permutation(n_items) + 1
        self._names = [0, *order.tolist()]

    def lists(self, lists: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return lists of as many items, each once as before; items outside the catalogue stay as they are."""
        names = self._names
        return [[names[item] if 0 < item < len(names) else item for item in each] for each in lists]
