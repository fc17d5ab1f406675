"""The issuer's public keys, from a file: one PEM key, or a JWKS (RFC 7517).

Each key is bound here to the algorithms that it may verify, so a token's header chooses among these alone. Symmetric
and private keys are refused: who holds neither can forge nothing, and an HMAC with a public key cannot happen.

ASVS 5.0: 9.1.2, 9.1.3 (keys come from this file only; ``jku``, ``x5u``, ``jwk`` and ``x5c`` of a token are not read).
11.6.1 holds where no ``RS…`` algorithm, PKCS#1 v1.5, is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gro.errors import ConfigError

Algorithm = Literal["EdDSA", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"]
SECRET_MEMBERS = frozenset({"d", "k", "p", "q", "dp", "dq", "qi", "oth"})
"""Of a JWK: parts of a private or symmetric key (RFC 7518, section 6)."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key.

    Attributes:
        kid: its name; None for the only key of a file that names none.
        key: of `cryptography`.
        algorithms: those that it may verify.
    """

    kid: str | None
    key: Any
    algorithms: tuple[str, ...]


def parse_keys(content: bytes, source: str, algorithms: Sequence[Algorithm]) -> dict[str | None, VerificationKey]:
    """Read the keys that serve to verify ``algorithms``, by name.

    Keys of a JWKS that are for something else (``use``, ``key_ops``, ``alg``, or a type that is not known) are passed
    over, as RFC 7517, section 5, asks.

    Raises:
        ConfigError: the file is malformed, holds a secret or weak key, leaves a key ambiguous, or has none that serves.
    """
    keys = _from_pem(content, source) if content.lstrip().startswith(b"-----BEGIN") else _from_jwks(content, source)
    bound = [VerificationKey(kid, key, _serves(key, alg, algorithms)) for kid, key, alg in keys]
    usable = [key for key in bound if key.algorithms]
    if not usable:
        raise ConfigError(f"{source}: no public key in it verifies {', '.join(algorithms)}")
    for key in usable:
        _check_length(key, source)
    by_kid = {key.kid: key for key in usable}
    if len(by_kid) < len(usable) or (None in by_kid and len(usable) > 1):
        raise ConfigError(f"{source}: of several keys, each must have a 'kid' of its own")
    return by_kid


Found = tuple[str | None, Any, str | None]
"""Name, key, and the algorithm that it is for, where that is said."""


def _from_pem(content: bytes, source: str) -> list[Found]:
    if content.count(b"-----BEGIN ") > 1:
        raise ConfigError(f"{source}: holds more than one PEM block; several keys go into a JWKS")
    try:
        return [(None, load_pem_public_key(content), None)]
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{source}: not a PEM public key ('-----BEGIN PUBLIC KEY-----')") from None


def _from_jwks(content: bytes, source: str) -> list[Found]:
    try:
        jwks = json.loads(content)
    except (ValueError, RecursionError):
        raise ConfigError(f"{source}: neither a PEM public key nor JSON") from None
    rows = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f'{source}: not a JWKS: {{"keys": [{{…}}, …]}} is expected')
    return [found for row in rows if (found := _from_jwk(row, source))]


def _from_jwk(row: dict[str, Any], source: str) -> Found | None:
    kid, alg, uses = row.get("kid"), row.get("alg"), row.get("key_ops", ["verify"])
    if not (isinstance(kid, str | None) and isinstance(alg, str | None) and isinstance(uses, list)):
        raise ConfigError(f"{source}: 'kid' and 'alg' of a key must be strings, and 'key_ops' a list")
    if SECRET_MEMBERS & row.keys():
        raise ConfigError(f"{source}: key {kid!r} is private or symmetric; only public keys belong here")
    if row.get("use", "sig") != "sig" or "verify" not in uses:
        return None
    try:
        return kid, jwt.PyJWK(row).key, alg
    except jwt.PyJWTError:
        return None


def _serves(key: Any, alg: str | None, algorithms: Sequence[Algorithm]) -> tuple[str, ...]:
    return tuple(name for name in algorithms if alg in {None, name} and _fits(key, name))


def _fits(key: Any, name: str) -> bool:
    """Whether a key is of the algorithm's type and on its curve."""
    try:
        jwt.get_algorithm_by_name(name).prepare_key(key)
    except (TypeError, jwt.InvalidKeyError):
        return False
    return True


def _check_length(key: VerificationKey, source: str) -> None:
    for name in key.algorithms:
        if weak := jwt.get_algorithm_by_name(name).check_key_length(key.key):
            raise ConfigError(f"{source}: key {key.kid!r}: {weak}")
