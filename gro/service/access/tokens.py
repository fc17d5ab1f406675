"""JWT bearer tokens of one issuer, verified with its public keys and the service's clock.

The account is the token's ``sub``: accounts that also have API keys must be those that the issuer knows by that name.
Roles come from a claim; a token without a known role may do nothing.

ASVS 5.0: 6.8.2 and 9.1.1 (signature before content), 9.2.1 (``exp``, ``nbf``, and a bound on ``exp - iat``), 9.2.2
(``typ``), 9.2.3 and 10.3.1 (audience), 10.3.2 (``sub`` and roles decide), 10.3.3 (one issuer, so ``sub`` is unique);
9.1.2 and 9.1.3 in :mod:`gro.service.access.verification`. Not 10.3.5: a stolen token works until it expires, or once
where ``one_time`` is set.

RFC 7519, RFC 8725 (best current practices), RFC 9068 (access tokens).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import jwt
from jwt.types import Options
from pydantic import Field

from gro.config import PositiveFloat, PositiveInt, Settings
from gro.service.access.files import PROTECTED, Watched, logger
from gro.service.access.names import NAME
from gro.service.access.onetime import OneTime
from gro.service.access.refusals import invalid
from gro.service.access.verification import Algorithm, VerificationKey, parse_keys
from gro.service.core import Principal, Role

CREDENTIAL = "token:"
"""What the public name of a token begins with."""
LONGEST = 8192
"""Characters of a token."""
CODES: Mapping[type[jwt.PyJWTError], str] = {
    jwt.InvalidSignatureError: "token_signature",
    jwt.InvalidAlgorithmError: "token_algorithm",
    jwt.InvalidIssuerError: "token_issuer",
    jwt.InvalidAudienceError: "token_audience",
    jwt.MissingRequiredClaimError: "token_claim_missing",
    jwt.PyJWTError: "token_malformed",
}
"""Refusals by what PyJWT raises, the narrower class first."""


class TokenSettings(Settings):
    """Whose tokens are taken, and which."""

    issuer: Annotated[str, Field(min_length=1)]
    """``iss`` of every token."""
    audience: Annotated[str, Field(min_length=1)]
    """This service's name in ``aud``."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)]
    """What the issuer signs with; of several, prefer EdDSA, ES256 or PS256 to RS256."""
    keys: Path
    """The issuer's public keys: a PEM file or a JWKS; a change to it acts on the next request."""
    type: str = "at+jwt"
    """``typ`` of the header, without "application/"; "JWT" for an issuer that does not follow RFC 9068."""
    roles_claim: Annotated[str, Field(min_length=1)] = "roles"
    """Claim that holds the roles: a list, or a string with spaces between them, as ``scope`` is."""
    max_lifetime: PositiveFloat = 3600.0
    """Most seconds between ``iat`` and ``exp``."""
    leeway: Annotated[float, Field(ge=0, le=300)] = 10.0
    """Seconds that the issuer's clock may differ by."""
    one_time: bool = False
    """Take each token once, by its ``jti``; those issued before this process started are refused."""
    one_time_room: PositiveInt = 100_000
    """Tokens remembered at a time; more are answered with 503."""


class Tokens:
    """Verifies tokens.

    Args:
        settings: which are taken.
        started: Unix seconds now.
        told: receives a line about each change to the key file that cannot be followed.

    Raises:
        ConfigError: the key file is missing, malformed, writable by others, or has no key for these algorithms.
    """

    def __init__(self, settings: TokenSettings, started: float, told: Callable[[str], None] = logger.error) -> None:
        self._settings = settings
        self._keys = Watched(settings.keys, partial(parse_keys, algorithms=settings.algorithms), PROTECTED, told)
        self._used = OneTime(settings.one_time_room, started + settings.leeway) if settings.one_time else None
        required = ["exp", "iat", "sub", *(["jti"] if settings.one_time else [])]
        # PyJWT reads the machine's clock, so times are checked here; issuer and audience are its part.
        times: Options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
        self._options: Options = {**times, "require": required, "enforce_minimum_key_length": True}

    @property
    def trouble(self) -> str | None:
        """Why the keys in force are not those of the file as it is now."""
        return self._keys.trouble

    def verify(self, presented: str, now: float) -> Principal:
        """Say whose token this is.

        Raises:
            Refused: 401; the token is malformed, forged, for someone else, outside its time or used up. 503; one-time
                tokens cannot be remembered now.
        """
        claims = self._claims(presented)
        until = self._until(claims, now)
        account = claims["sub"]
        if not NAME.fullmatch(account):
            raise invalid("token_subject")
        credential = _credential(claims, presented)
        if self._used is not None:
            self._used.use(claims["jti"], _seconds(claims, "iat"), until, now)
        return Principal(account, _roles(claims.get(self._settings.roles_claim)), credential)

    def _claims(self, presented: str) -> Mapping[str, Any]:
        if len(presented) > LONGEST or not presented.isascii():
            raise invalid("token_malformed")
        try:
            header = jwt.get_unverified_header(presented)
            key = self._key(header)
            return jwt.decode(
                presented,
                key.key,
                algorithms=key.algorithms,
                options=self._options,
                audience=self._settings.audience,
                issuer=self._settings.issuer,
            )
        except jwt.PyJWTError as error:
            raise invalid(next(code for kind, code in CODES.items() if isinstance(error, kind))) from None

    def _key(self, header: Mapping[str, Any]) -> VerificationKey:
        """The key that a header names; where the file has one without a name, that."""
        named = str(header.get("typ")).lower().removeprefix("application/")
        if named != self._settings.type.lower():
            raise invalid("token_type")
        keys, kid = self._keys.current(), header.get("kid")
        if kid is None and len(keys) == 1:
            return next(iter(keys.values()))
        key = keys.get(kid) or keys.get(None)
        if key is None:
            raise invalid("token_key")
        return key

    def _until(self, claims: Mapping[str, Any], now: float) -> float:
        """When the token is over, leeway included; refuses one that is not within its time."""
        issued, expires = _seconds(claims, "iat"), _seconds(claims, "exp")
        starts = max(issued, _seconds(claims, "nbf")) if "nbf" in claims else issued
        leeway = self._settings.leeway
        if now >= expires + leeway:
            raise invalid("token_expired")
        if now < starts - leeway:
            raise invalid("token_early")
        if not 0 < expires - issued <= self._settings.max_lifetime:
            raise invalid("token_lifetime")
        return expires + leeway


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519, section 2)."""
    value = claims[name]
    try:
        seconds = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise invalid("token_malformed")
    return seconds


def _roles(claim: object) -> frozenset[Role]:
    names = claim.split(" ") if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(role for role in Role if role in names)


def _credential(claims: Mapping[str, Any], presented: str) -> str:
    """The public name of a token: its ``jti``, or a hash where it has none."""
    name = claims.get("jti", sha256(presented.encode()).hexdigest()[:16])
    if not NAME.fullmatch(name):
        raise invalid("token_name")
    return f"{CREDENTIAL}{name}"
