"""Hashes of items and of the ends of histories, vectorised; what is kept of a history is these, not its items."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Hashes: TypeAlias = npt.NDArray[np.uint64]
Items: TypeAlias = npt.NDArray[np.int64]

TAIL: Final = 8
"""Items at the end of a history that tell it from others."""
SKIPPED: Final = 5
"""Items by which a history may have grown between two calls and still be the same one."""
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


def mixed(values: npt.ArrayLike, salt: int = 0) -> Hashes:
    """Return a 64-bit hash of every integer: the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    h = np.asarray(values).astype(np.uint64) + np.uint64((salt + 1) * int(_ODD) % 2**64)
    h = (h ^ (h >> _30)) * _FIRST
    h = (h ^ (h >> _27)) * _SECOND
    return h ^ (h >> _31)


_PLACES: Final = mixed(np.arange(TAIL), salt=1) | np.uint64(1)
_WEIGHTS: Final = np.array([np.pad(_PLACES, (dropped, SKIPPED - dropped)) for dropped in range(SKIPPED + 1)])


def ends(hashes: Hashes) -> Hashes:
    """Hash what a history ``[L]`` of item hashes, oldest first, ends in: ``[SKIPPED + 1]``.

    Entry ``j`` is that of the history without its last ``j`` items, 0 where nothing is left of it.
    """
    last = hashes[-(SKIPPED + TAIL) :]
    return _WEIGHTS[:, : len(last)] @ last[::-1]
