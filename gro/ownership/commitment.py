"""Commitments: the digest of a secret, published now, by which the secret can be shown later to be the same.

A sealed secret is 32 random bytes, the salt, and then the secret; the commitment is the SHA-256 of both, so that
``sha256sum FILE`` checks it without this library. It hides the secret, since nobody can guess the salt, and it binds
its owner, since nobody can find another secret with the same digest. It is worth something against a false claim only
where the digest is known to be older than the dispute: see :mod:`gro.ownership.timestamp`. And an owner who commits to
many secrets has many attempts, which is why a verdict counts the commitments of its statement.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from gro.artifacts.manifest import sha256
from gro.errors import DataError
from gro.ownership.identity import write_new
from gro.service.access.files import PRIVATE, read_trusted

SALT: Final = 32
"""Bytes of the salt."""


def commit(secret: bytes) -> tuple[bytes, str]:
    """Return a sealed secret, to be kept, and the commitment to it in hexadecimal, to be published."""
    content = secrets.token_bytes(SALT) + secret
    return content, sha256(content)


def opened(content: bytes, committed: str, source: str) -> bytes:
    """Return the secret that was committed to.

    Args:
        content: a sealed secret.
        committed: the commitment, in hexadecimal.
        source: where the content comes from, for the error.

    Raises:
        DataError: it is another secret, or an altered one.
    """
    if len(content) < SALT or sha256(content) != committed:
        raise DataError(f"{source}: is not the secret that was committed to: its SHA-256 is not {committed}")
    return content[SALT:]


def seal(path: Path, secret: bytes) -> str:
    """Write a sealed secret to a new file of mode 0600; return the commitment to it.

    Raises:
        DataError: the file is there already, or cannot be written.
    """
    content, committed = commit(secret)
    write_new(path, content)
    return committed


def unseal(path: Path, committed: str) -> bytes:
    """Return the secret in a file.

    Raises:
        ConfigError: the file is missing or in others' hands.
        DataError: it is not the secret that was committed to.
    """
    return opened(read_trusted(path, PRIVATE)[0], committed, str(path))
