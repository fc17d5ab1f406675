"""Decoys: lists that look like the service's and lead astray, the same ones whenever the same history is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import numpy as np

from gro.errors import ConfigError
from gro.service.keyfile import derived
from gro.service.playbook import Playbook, State

TAKES: Final = "they take 'n_items' of [wire] and 'key_file' of [privacy]"


class Decoys:
    """Exchanges the names of the catalogue's items: what a copy learns from the lists belongs to other items.

    The lists of adaptive misinformation (Kariyappa & Qureshi, CVPR 2020), without a model of their own.
    """

    def __init__(self, secret: bytes, n_items: int) -> None:
        """Exchange names of items 1..n_items as ``secret`` says."""
        seed = int.from_bytes(derived(secret, "gro decoys"), "big")
        order = np.random.default_rng(seed).permutation(n_items) + 1
        self._names = [0, *order.tolist()]

    @classmethod
    def of(cls, playbook: Playbook, n_items: int | None, secret: bytes | None) -> Self | None:
        """Make the decoys of a playbook, as far as there is what they take.

        Raises:
            ConfigError: there is not, and the playbook would answer with them.
        """
        if n_items is not None and secret is not None:
            return cls(secret, n_items)
        if not playbook.dry_run and any(rule.then is State.DECOY for rule in playbook.rule):
            raise ConfigError(f"the playbook answers with decoys: {TAKES}")
        return None

    def lists(self, lists: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return lists of as many items, each once as before; items outside the catalogue stay as they are."""
        names = self._names
        return [[names[item] if 0 < item < len(names) else item for item in each] for each in lists]
