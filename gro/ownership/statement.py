"""The signed statement: who owns which artifact, where it comes from, and which secrets its owner has committed to.

A statement is one file of JSON in the canonical form of RFC 8785 (sorted keys, no spaces, UTF-8; only strings and
whole numbers), so that its digest is the file's own ``sha256sum``. ``signature`` is Ed25519 (RFC 8032) over the same
form without that key. The time in it is only its owner's word: what proves that it existed is a deposit of the file or
of its digest with a third party, see :mod:`gro.ownership.timestamp`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, StrictInt

from gro import artifacts
from gro.artifacts import Artifact, DatasetIdentity
from gro.artifacts.manifest import sha256
from gro.config import Settings
from gro.errors import ConfigError, DataError
from gro.ownership.identity import Identity, hexadecimal, identify, write_new
from gro.provenance import versions

STATEMENT: Final = "statement.json"
"""Usual name of the file."""
FORMAT: Final = "gro-ownership-statement"
VERSION: Final = 1

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Person = Annotated[str, Field(min_length=1, max_length=200)]
Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
"""ISO 8601 in UTC, to the second; text, so that it is signed as it is written."""


class Subject(Settings):
    """An artifact that a statement speaks of."""

    weights: Digest
    """:func:`gro.ownership.identity.weights_digest`."""
    manifest: Digest
    """SHA-256 of manifest.json: the settings, the dataset, the measured figures."""
    catalogue: Digest
    """SHA-256 of items.json: the token of every item id."""
    items: Annotated[StrictInt, Field(gt=0)]
    """Size of the catalogue."""
    architecture: str
    created: str
    """When it was written, by its own manifest."""
    dataset: DatasetIdentity


class Statement(Settings):
    """What an owner signs."""

    format: Literal["gro-ownership-statement"]
    version: Literal[1]
    owner: Person
    public_key: Digest
    """The owner's Ed25519 public key, 32 bytes in hexadecimal."""
    trained_by: Person
    exported_by: Person
    signed_at: Moment
    """By the owner's own clock."""
    artifact: Subject
    lineage: tuple[Subject, ...]
    """What the artifact was made from, oldest first: such as the plain model, then the protected one."""
    commitments: dict[Name, Digest]
    """See :mod:`gro.ownership.commitment`."""
    versions: dict[Name, str]
    signature: Signature

    @property
    def content(self) -> bytes:
        """The file."""
        return _canonical(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal: what is deposited with a third party."""
        return sha256(self.content)

    def write(self, path: Path) -> None:
        """Write the statement to a new file.

        Raises:
            DataError: the file is there already, or cannot be written.
        """
        write_new(path, self.content, mode=0o644)


def signed(
    folder: Path,
    key: Ed25519PrivateKey,
    owner: str,
    commitments: Mapping[str, str],
    parents: Sequence[Path] = (),
    *,
    trained_by: str | None = None,
    exported_by: str | None = None,
) -> Statement:
    """Sign a statement about the artifact in a folder.

    Args:
        folder: of the artifact.
        key: the owner's, from :func:`gro.ownership.identity.read_private`.
        owner: name of a person or a company, as it is to stand before a court.
        commitments: by name, as :func:`gro.ownership.commitment.seal` returns them.
        parents: folders of the artifacts that it was made from, oldest first.
        trained_by: who trained it; unset is the owner.
        exported_by: who wrote the artifact; unset is the owner.

    Raises:
        ArtifactError: an artifact is missing, damaged or foreign.
        DataError: a parent has another catalogue.
        ConfigError: a name or a commitment is malformed.
    """
    subject, *lineage = (_subject(artifacts.load(path)) for path in (folder, *parents))
    for path, ancestor in zip(parents, lineage, strict=True):
        if ancestor.catalogue != subject.catalogue:
            raise DataError(f"{path}: has another catalogue than {folder}, so this was not made from it")
    values = {
        "format": FORMAT,
        "version": VERSION,
        "owner": owner,
        "public_key": hexadecimal(key.public_key()),
        "trained_by": trained_by or owner,
        "exported_by": exported_by or owner,
        "signed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "artifact": subject,
        "lineage": tuple(lineage),
        "commitments": dict(commitments),
        "versions": versions(),
    }
    unsigned = Statement.make({**values, "signature": "0" * 128}, f"statement about {folder}")
    return unsigned.model_copy(update={"signature": key.sign(_signed_bytes(unsigned)).hex()})


def verified(path: Path, folder: Path | None = None, public_key: str | None = None) -> Statement:
    """Read a statement and check it: its form, its signature, and what is given to hold it against.

    Args:
        path: file of the statement.
        folder: artifact that it must speak of.
        public_key: the owner's key as it is known from elsewhere; without it the signature only shows that whoever
            signed the statement holds the key that the statement itself names.

    Raises:
        DataError: it is missing, malformed, altered, signed by another key or about another artifact.
        ArtifactError: the artifact is missing, damaged or foreign.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    statement = parse(content, str(path))
    if public_key is not None:
        require_key(statement, public_key, str(path))
    if folder is not None:
        require_about(statement, artifacts.load(folder), str(path))
    return statement


def require_key(statement: Statement, public_key: str, source: str) -> None:
    """Check that a statement is signed with a key.

    Raises:
        DataError: it is signed with another one.
    """
    if statement.public_key != public_key:
        raise DataError(f"{source}: wrong key: signed with {statement.public_key}, not with {public_key}")


def require_about(statement: Statement, artifact: Artifact, source: str) -> None:
    """Check that a statement speaks of an artifact.

    Raises:
        DataError: it speaks of another one; names the first difference.
    """
    found = _subject(artifact)
    differences = {
        "another catalogue": found.catalogue != statement.artifact.catalogue,
        "another dataset": found.dataset.digest != statement.artifact.dataset.digest,
        "other weights": found.weights != statement.artifact.weights,
        "another manifest": found.manifest != statement.artifact.manifest,
    }
    for difference, is_there in differences.items():
        if is_there:
            raise DataError(f"{artifact.folder}: has {difference} than the artifact that {source} was signed for")


def parse(content: bytes, source: str) -> Statement:
    """Return the statement in the bytes of a file, once its form and its signature were checked.

    Raises:
        DataError: it is malformed or altered; names the ``source``.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{source}: not an ownership statement of gro")
    if values.get("version") != VERSION:
        raise DataError(f"{source}: statement version {values.get('version')!r}; this gro reads version {VERSION}")
    try:
        statement = Statement.make(values, source)
        written = statement.content
    except (ConfigError, UnicodeEncodeError) as error:
        raise DataError(f"{source}: malformed statement: {' '.join(str(error).split())}") from None
    if written != content:
        raise DataError(f"{source}: altered: it is not in the form in which a statement is written and signed")
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(statement.public_key))
    try:
        key.verify(bytes.fromhex(statement.signature), _signed_bytes(statement))
    except InvalidSignature:
        raise DataError(f"{source}: altered after it was signed, or not signed with the key that it names") from None
    return statement


def _signed_bytes(statement: Statement) -> bytes:
    return _canonical(statement.model_dump(mode="json", exclude={"signature"}))


def _canonical(values: Mapping[str, Any]) -> bytes:
    """JSON in the form of RFC 8785, for strings and whole numbers, and keys in ASCII."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _subject(artifact: Artifact) -> Subject:
    identity: Identity = identify(artifact)
    return Subject(
        weights=identity.weights,
        manifest=identity.manifest,
        catalogue=identity.catalogue,
        items=artifact.manifest.n_items,
        architecture=artifact.manifest.model.model,
        created=artifact.manifest.created,
        dataset=artifact.manifest.dataset,
    )
