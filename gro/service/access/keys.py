"""API keys: made, rotated and revoked in a file that a running service follows, and kept there as hashes.

A key reads ``gro_<id>_<secret><checksum>``. The id is public, the secret has 256 random bits, and the checksum (CRC-32
in base 62, as in GitHub's tokens) lets a secret scanner or a typing error be told without a look-up.

ASVS 5.0: 6.3.8 (an unknown key costs and says what a wrong one does), 6.5.2 and 6.5.3 (hashing, CSPRNG), 6.5.6
(revocation), 8.3.2 (a change acts on the next request), 11.5.1 (256 bits), 13.3.4 (every key expires, and rotates with
an overlap). See also :mod:`gro.service.access.files`.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal
from zlib import crc32

from pydantic import Field, ValidationError

from gro.config import Settings
from gro.errors import ConfigError
from gro.service.access.files import PRIVATE, Watched, locked, logger, read_trusted, replace
from gro.service.access.names import Account
from gro.service.access.refusals import invalid
from gro.service.access.secret import ALPHABET, CHARACTERS, base62, digest, draw
from gro.service.core import Principal, Role

PREFIX = "gro_"
CREDENTIAL = "key:"
"""What the public name of a key begins with."""
ID_CHARACTERS = 12
CHECK_CHARACTERS = 6
_ID = f"[{ALPHABET}]{{{ID_CHARACTERS}}}"
_PRESENTED = re.compile(rf"({PREFIX}({_ID})_[{ALPHABET}]{{{CHARACTERS}}})([{ALPHABET}]{{{CHECK_CHARACTERS}}})")
_NOBODY = digest("")
Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class KeySettings(Settings):
    """Where the API keys are."""

    path: Path
    """JSON file of mode 0600 that ``gro guard keys`` writes; a change to it acts on the next request."""


class Key(Settings):
    """An API key without its secret; times are Unix seconds."""

    id: Annotated[str, Field(pattern=f"^{_ID}$")]
    account: Account
    roles: Annotated[frozenset[Role], Field(min_length=1)]
    label: Annotated[str, Field(pattern="^[ -~]{0,100}$")] = ""
    """What the owner calls it."""
    created: Time
    expires: Time
    revoked: Time | None = None
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$", repr=False)]
    """SHA-256 of the whole key."""

    def ended(self, now: float) -> str:
        """Why the key is no longer good, as a code for the log; empty where it is."""
        if self.revoked is not None:
            return "key_revoked"
        return "key_expired" if now >= self.expires else ""


class KeyStore:
    """The keys of a file.

    Args:
        settings: where it is.
        told: receives a line about each change to the file that cannot be followed.

    Raises:
        ConfigError: the file is missing, malformed, or open to others than its owner.
    """

    def __init__(self, settings: KeySettings, told: Callable[[str], None] = logger.error) -> None:
        self._path = settings.path
        self._file = Watched(settings.path, _parse, PRIVATE, told)

    @property
    def trouble(self) -> str | None:
        """Why the keys in force are not those of the file as it is now."""
        return self._file.trouble

    def list(self) -> tuple[Key, ...]:
        """Every key, ended ones too, in the order they were made in."""
        return tuple(self._file.current().values())

    def verify(self, presented: str, now: float) -> Principal:
        """Say whose key this is.

        Raises:
            Refused: 401; the key is malformed, unknown, wrong, revoked or expired.
        """
        shown = _PRESENTED.fullmatch(presented)
        if shown is None:
            raise invalid("key_malformed")
        body, key_id, check = shown.groups()
        if check != _checksum(body):
            raise invalid("key_mistyped")
        key = self._file.current().get(key_id)
        right = hmac.compare_digest(digest(presented), key.digest if key else _NOBODY)
        if key is None or not right:
            raise invalid("key_wrong" if key else "key_unknown")
        if ended := key.ended(now):
            raise invalid(ended)
        return Principal(key.account, key.roles, f"{CREDENTIAL}{key_id}")

    def stands(self, credential: str, now: float) -> bool:
        """Whether the key of this public name, such as ``key:3Fa…``, is still good: what it opened stands with it."""
        key = self._file.current().get(credential.removeprefix(CREDENTIAL))
        return key is not None and not key.ended(now)

    def create(
        self, account: str, roles: Iterable[Role], expires_in: float, now: float, label: str = ""
    ) -> tuple[Key, str]:
        """Make a key that lasts ``expires_in`` seconds.

        Returns:
            The key as it is kept, and the text to hand to its owner, which nobody can tell afterwards.

        Raises:
            ConfigError: a name, the roles or the time is not one a key can have, or the file cannot be written.
        """
        return self.create_all((account,), roles, expires_in, now, label)[0]

    def create_all(
        self, accounts: Iterable[str], roles: Iterable[Role], expires_in: float, now: float, label: str = ""
    ) -> tuple[tuple[Key, str], ...]:
        """Make a key for each account, in one change to the file; otherwise as :meth:`create`."""
        granted = frozenset(roles)
        made = tuple(_draw(account, granted, expires_in, now, label) for account in accounts)
        with self._changing() as keys:
            keys |= {key.id: key for key, _ in made}
        return made

    def rotate(self, key_id: str, overlap: float, expires_in: float, now: float) -> tuple[Key, str]:
        """Make a key like this one, which itself works for ``overlap`` more seconds, or until it expires.

        Returns:
            As :meth:`create`.

        Raises:
            ConfigError: there is no such key, it has ended, or a time is not one a key can have.
        """
        if not overlap >= 0:
            raise ConfigError(f"overlap is {overlap!r}; it must be 0 seconds or more")
        with self._changing() as keys:
            old = self._find(keys, key_id)
            if ended := old.ended(now):
                raise ConfigError(f"{self._path}: {key_id}: {ended.replace('_', ' ')}; create a new one")
            key, presented = _draw(old.account, old.roles, expires_in, now, old.label)
            keys[key_id] = old.model_copy(update={"expires": min(old.expires, now + overlap)})
            keys[key.id] = key
        return key, presented

    def revoke(self, key_id: str, now: float) -> Key:
        """End a key for good, at once in every service that reads the file; a key revoked before stays as it was.

        Raises:
            ConfigError: there is no such key.
        """
        with self._changing() as keys:
            old = self._find(keys, key_id)
            keys[key_id] = old if old.revoked is not None else old.model_copy(update={"revoked": now})
        return keys[key_id]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        path = self._path.resolve()  # a link stays a link
        with locked(path):
            keys = _parse(read_trusted(path, PRIVATE)[0], str(path))
            yield keys
            replace(path, _dump(keys))

    def _find(self, keys: Mapping[str, Key], key_id: str) -> Key:
        if key_id not in keys:
            raise ConfigError(
                f"{self._path}: no key has the id {key_id!r}; an id is what stands between a key's two '_'"
            )
        return keys[key_id]


def start_key_file(path: Path) -> None:
    """Make an empty key file where there is none.

    Raises:
        ConfigError: the folder is missing or cannot be written.
    """
    with locked(path):
        if not path.exists():
            replace(path, _dump({}))


class _KeyFile(Settings):
    format: Literal["gro-keys-1"]
    keys: tuple[Key, ...]


def _parse(content: bytes, source: str) -> dict[str, Key]:
    try:
        keys = _KeyFile.model_validate_json(content, strict=True).keys
    except ValidationError as error:  # without what was found there: it may be a key that someone pasted
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{source}: not a key file: {where and where + ': '}{problem['msg']}") from None
    by_id = {key.id: key for key in keys}
    if len(by_id) < len(keys):
        raise ConfigError(f"{source}: not a key file: two keys have the same id")
    return by_id


def _dump(keys: Mapping[str, Key]) -> bytes:
    rows = [{**key.model_dump(mode="json"), "roles": sorted(key.roles)} for key in keys.values()]
    return json.dumps({"format": "gro-keys-1", "keys": rows}, indent=1).encode() + b"\n"


def _draw(account: str, roles: Iterable[Role], expires_in: float, now: float, label: str) -> tuple[Key, str]:
    if not expires_in > 0:
        raise ConfigError(f"expires_in is {expires_in!r}; a key must last longer than 0 seconds")
    key_id = draw(ID_CHARACTERS)
    body = f"{PREFIX}{key_id}_{draw()}"
    presented = body + _checksum(body)
    about = {"account": account, "roles": frozenset(roles), "label": label, "created": now, "expires": now + expires_in}
    return Key.make({"id": key_id, "digest": digest(presented), **about}, "key"), presented


def _checksum(body: str) -> str:
    return base62(crc32(body.encode()), CHECK_CHARACTERS)
