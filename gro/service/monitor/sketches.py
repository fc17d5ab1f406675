"""Counts and comparisons in a fixed number of bytes."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from gro.service.monitor.hashing import Hashes, mixed

BITS: Final = 1024
"""Bits of a counter; one item more or less is seen up to some 5,000 distinct items."""
SIGNATURE: Final = 8
"""Minima of a signature."""
Bits = npt.NDArray[np.uint8]
Signature = npt.NDArray[np.uint16]
_SEEDS: Final = mixed(np.arange(SIGNATURE), salt=2) | np.uint64(1)
_LAST: Final = np.uint64(2**64 - 1)
_LOW, _TOP = np.uint64(BITS - 1), np.uint64(48)


def add(bits: Bits, hashes: Hashes) -> None:
    """Count hashes in ``bits [BITS / 8]``: linear counting (Whang, Vander-Zanden & Taylor, TODS 1990)."""
    hit = np.zeros(BITS, np.bool_)
    hit[(hashes & _LOW).astype(np.intp)] = True
    bits |= np.packbits(hit)


def distinct(bits: Bits) -> float:
    """Estimate how many different hashes were counted."""
    empty = BITS - int.from_bytes(bits.tobytes()).bit_count()
    return -BITS * math.log(max(empty, 1) / BITS)


def signature(hashes: Hashes) -> Signature:
    """Return the minima ``[SIGNATURE]`` by which sets are compared (Broder, 1997)."""
    minima = (hashes[:, None] * _SEEDS).min(axis=0, initial=_LAST)
    return np.asarray(minima >> _TOP, np.uint16)


def distances(signatures: npt.NDArray[np.uint16], one: Signature) -> npt.NDArray[np.float64]:
    """Estimate the Jaccard distances ``[N]`` of sets with ``signatures [N, SIGNATURE]`` from one."""
    return np.asarray(1 - (signatures == one).sum(axis=1) / SIGNATURE)
