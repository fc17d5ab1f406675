"""Secrets that the service hands out: drawn from the system's CSPRNG, kept as SHA-256.

A secret has 256 random bits, which no number of guesses finds, so a slow or salted hash would protect nothing and cost
every request (ASVS 5.0, 6.5.2). ASVS 5.0: 6.5.3, 11.4.1, 11.5.1.
"""

from __future__ import annotations

import hashlib
import secrets
import string

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
"""Base 62: nothing to escape in a URL, and no ``_`` or ``-``, so that a double click selects a part whole."""
CHARACTERS = 43
"""Of a secret: 62**43 > 2**256."""


def draw(characters: int = CHARACTERS) -> str:
    """``characters`` random ones, 5.95 bits each."""
    return "".join(secrets.choice(ALPHABET) for _ in range(characters))


def digest(secret: str) -> str:
    """What is kept of a secret: its SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def base62(number: int, characters: int) -> str:
    """A non-negative number, padded with 0 to ``characters``."""
    text = ""
    for _ in range(characters):
        number, digit = divmod(number, len(ALPHABET))
        text = ALPHABET[digit] + text
    return text
