"""Randomness of answers, one 64-bit key each: who has the key has the noise, whatever else was asked beside it."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from gro.models.base import lengths, most_recent

GOLDEN = 0x9E3779B97F4A7C15
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
BITS = 23
"""Random bits of a uniform number: with the half that keeps it off 0 and 1, all that a 32-bit float holds."""


def keyed_generator(purpose: bytes, secret: bytes) -> torch.Generator:
    """What is drawn once for good: a generator for a ``purpose`` that only the secret tells (keyed BLAKE2b)."""
    digest = hashlib.blake2b(purpose, digest_size=8, key=secret).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def fresh_keys(count: int, generator: torch.Generator) -> Tensor:
    """Draw a key for each of ``count`` answers: ``[B]`` int64."""
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator)


def history_keys(histories: Tensor, max_length: int, secret: bytes) -> Tensor:
    """The key of each history ``[B, T]``, the same whenever it is asked: ``[B]`` int64.

    Keyed BLAKE2b (RFC 7693) over the items that the model reads, so that items in front of them, which change no
    answer, do not change its noise either.
    """
    read = most_recent(histories, max_length).cpu()
    rows = zip(read.numpy(), lengths(read).tolist(), strict=True)
    digests = (hashlib.blake2b(row[:n].tobytes(), digest_size=8, key=secret).digest() for row, n in rows)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests])


def uniform(keys: Tensor, width: int, stream: int) -> Tensor:
    """Numbers in (0, 1) for keys ``[B]``: ``[B, width]``; other streams of the same keys are independent.

    SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), with the column as its counter.
    """
    counter = torch.arange(1, width + 1, device=keys.device) + (stream << 32)
    z = keys[:, None] + counter * _signed(GOLDEN)
    z = (z ^ _shifted(z, 30)) * _signed(FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(SECOND)
    return (_shifted(z ^ _shifted(z, 31), 64 - BITS).float() + 0.5) * 2.0**-BITS


def normal(keys: Tensor, width: int, stream: int) -> Tensor:
    """Standard normal numbers for keys ``[B]``: ``[B, width]``; see :func:`uniform`."""
    return torch.erfinv(2 * uniform(keys, width, stream) - 1) * math.sqrt(2)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
