"""Who signs, and what is signed: Ed25519 keys (RFC 8032) as files, and the SHA-256 of weights and of an artifact."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from safetensors import SafetensorError, deserialize

from gro.artifacts import Artifact
from gro.artifacts.manifest import ITEMS, MANIFEST, WEIGHTS, read_bytes, sha256
from gro.errors import ArtifactError, ConfigError, DataError
from gro.service.access.files import PRIVATE, read_trusted

PUBLIC_SUFFIX: Final = ".pub"


@dataclass(frozen=True, slots=True)
class Identity:
    """What an artifact is, by SHA-256 digests in hexadecimal.

    Attributes:
        weights: of the tensors, whatever file they are in: see :func:`weights_digest`.
        manifest: of the file manifest.json: settings, dataset, measured figures, versions.
        catalogue: of the file items.json: the token of every item id.
    """

    weights: str
    manifest: str
    catalogue: str


def generate(path: Path) -> Path:
    """Make a key pair: the private key at ``path`` (PKCS #8 PEM, not encrypted, mode 0600), the public one beside it.

    Returns:
        The file of the public key, NAME.pub.

    Raises:
        DataError: one of the files is there already, or the folder cannot be written.
    """
    key, public = Ed25519PrivateKey.generate(), path.with_name(path.name + PUBLIC_SUFFIX)
    if public.exists():
        raise DataError(f"{public}: is there already, and a key is never overwritten; choose another file")
    write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_new(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), mode=0o644)
    return public


def read_private(path: Path) -> Ed25519PrivateKey:
    """Read a private key that nobody else can read.

    Raises:
        ConfigError: the file is missing, in others' hands, or holds no Ed25519 private key.
    """
    content, _ = read_trusted(path, PRIVATE)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: holds no Ed25519 private key in PEM; make one with: gro own keygen")
    return key


def read_public(path: Path) -> str:
    """Read a public key; return its 32 bytes in hexadecimal.

    Raises:
        ConfigError: the file is missing or holds no Ed25519 public key.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: holds no Ed25519 public key in PEM, such as gro own keygen writes to NAME.pub")
    return hexadecimal(key)


def hexadecimal(key: Ed25519PublicKey) -> str:
    """Return the 32 bytes of a public key in hexadecimal."""
    return key.public_bytes_raw().hex()


def identify(artifact: Artifact) -> Identity:
    """Return the digests of an artifact that was read.

    Raises:
        ArtifactError: its files have changed since.
    """
    content = read_bytes(artifact.folder / WEIGHTS)
    if sha256(content) != artifact.manifest.files[WEIGHTS]:
        raise ArtifactError(f"{artifact.folder}: was replaced while it was read")
    manifest = sha256(read_bytes(artifact.folder / MANIFEST))
    return Identity(weights_digest(content), manifest, artifact.manifest.files[ITEMS])


def weights_digest(content: bytes) -> str:
    """Return the SHA-256 of the tensors in a safetensors file: equal for equal tensors, however the file orders them.

    Hashed are, by name in the order of code points, a line ``["NAME","DTYPE",[SHAPE]]`` of JSON without spaces and the
    tensor's bytes, row-major and little-endian. Metadata is no part of it; a change of dtype changes it.

    Raises:
        ArtifactError: the content is not safetensors.
    """
    try:
        tensors = sorted(deserialize(content), key=lambda named: named[0])  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ArtifactError(f"not safetensors: {' '.join(str(error).split())}") from None
    sha = hashlib.sha256()
    for name, tensor in tensors:
        line = json.dumps([name, tensor["dtype"], tensor["shape"]], ensure_ascii=False, separators=(",", ":"))
        sha.update(line.encode() + b"\n")
        sha.update(tensor["data"])
    return sha.hexdigest()


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that was not there, durably, with no more rights than ``mode``.

    Raises:
        DataError: it is there already, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise DataError(f"{path}: is there already, and evidence is never overwritten; choose another file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from None
