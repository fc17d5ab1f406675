"""Secret keys as files, and a key of its own for each use of one."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Final

from gro.errors import ConfigError
from gro.service.access.files import PRIVATE, read_trusted

SHORTEST: Final = 32
"""Bytes that a key has at least: the length of a SHA-256 digest (RFC 2104, section 3)."""


def read_key(path: Path) -> bytes:
    """Read a key; white space around it is not part of it.

    Raises:
        ConfigError: the file is missing, can be read by others, or holds less than :data:`SHORTEST` bytes.
    """
    key = read_trusted(path, PRIVATE)[0].strip()
    if len(key) < SHORTEST:
        hint = "make one with: openssl rand -hex 32"
        raise ConfigError(f"key file {path} holds {len(key)} bytes; a key has {SHORTEST} or more; {hint}")
    return key


def derived(key: bytes, use: str) -> bytes:
    """Return the key for one use, so that one secret serves several and none of them tells about another.

    HMAC-SHA-256 of the name of the use: the expansion of HKDF (RFC 5869, section 2.3) for a single block.
    """
    return hmac.digest(key, use.encode() + b"\x01", "sha256")
