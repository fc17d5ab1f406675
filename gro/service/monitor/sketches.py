"""Counts and comparisons in a fixed number of bytes."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from gro.service.monitor.hashing import Hashes, mixed

BITS: Final = 1024
"""Bits of a counter; one item more or less is seen up to some 5,000 distinct items."""
SIGNATURE: Final = 8
"""Minima of a signature."""
Bits = npt.NDArray[np.uint64]
Signature = npt.NDArray[np.uint16]
_SEEDS: Final = mixed(np.arange(SIGNATURE), salt=2) | np.uint64(1)
_SHIFT, _LOW, _TOP = np.uint64(6), np.uint64(63), np.uint64(48)
_ONE: Final = np.uint64(1)


def add(bits: Bits, hashes: Hashes) -> None:
    """Count hashes in ``bits [BITS / 64]``: linear counting (Whang, Vander-Zanden & Taylor, TODS 1990)."""
    places = hashes % np.uint64(BITS)
    np.bitwise_or.at(bits, (places >> _SHIFT).astype(np.intp), _ONE << (places & _LOW))


def distinct(bits: Bits) -> float:
    """Estimate how many different hashes were counted."""
    empty = BITS - int(np.bitwise_count(bits).sum())
    return float(-BITS * np.log(max(empty, 1) / BITS))


def signature(hashes: Hashes) -> Signature:
    """Return the minima ``[SIGNATURE]`` by which sets are compared (Broder, 1997)."""
    minima = (hashes[:, None] * _SEEDS).min(axis=0)
    return (minima >> _TOP).astype(np.uint16) if len(hashes) else np.zeros(SIGNATURE, np.uint16)


def distances(signatures: npt.NDArray[np.uint16], one: Signature) -> npt.NDArray[np.float64]:
    """Estimate the Jaccard distances ``[N]`` of sets with ``signatures [N, SIGNATURE]`` from one."""
    return np.asarray(1 - (signatures == one).mean(axis=1))
