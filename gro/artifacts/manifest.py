"""The manifest of an artifact: what the model is and where it comes from, sealed with a checksum of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from pydantic import JsonValue

from gro.config import Architecture, ModelSettings, PositiveInt, Settings, SmallInt
from gro.errors import ArtifactError, ConfigError
from gro.training import STATE_FILE

FORMAT: Final = "gro-artifact"
VERSION: Final = 1
MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "model.safetensors"
ITEMS: Final = "items.json"

ContentFile: TypeAlias = Literal["model.safetensors", "items.json"]
CONTENTS: tuple[ContentFile, ...] = (WEIGHTS, ITEMS)


class DatasetIdentity(Settings):
    """Which data a model was trained on."""

    name: str
    digest: str
    """:attr:`gro.data.Sequences.digest`."""


class Manifest(Settings):
    """What an artifact says about itself."""

    format: Literal["gro-artifact"]
    version: Literal[1]
    created: str
    """Time of writing, ISO 8601, UTC."""
    model: ModelSettings
    n_items: PositiveInt
    dataset: DatasetIdentity
    seed: int
    settings: dict[str, JsonValue]
    """Settings of the command that made the model."""
    members: SmallInt = 1
    """Models in the artifact; more than one answer together."""
    others: Architecture | None = None
    """Architecture of all of them but the first, whose size they have; unset is that of the first."""
    defence: dict[str, JsonValue] | None = None
    """What stands in front of the model when it is served; see :class:`gro.defenses.cards.DefenceCard`."""
    metrics: dict[str, JsonValue]
    versions: dict[str, str]
    """Versions of Python and of the libraries that wrote the artifact."""
    files: dict[ContentFile, str]
    """SHA-256 of each other file, in hexadecimal."""

    @property
    def models(self) -> list[ModelSettings]:
        """Settings of every model in the artifact."""
        others = self.model.model_copy(update={"model": self.others or self.model.model})
        return [self.model, *[others] * (self.members - 1)]


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write_manifest(values: Mapping[str, Any]) -> bytes:
    """Return the text of a manifest, its checksum included.

    Raises:
        ValueError: a number is nan or infinite.
    """
    return json.dumps({**values, "sha256": _seal(values)}, indent=2, allow_nan=False).encode()


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of an artifact.

    Raises:
        ArtifactError: it is missing, damaged, foreign, malformed or of another version.
    """
    values, path = read_any_manifest(folder), folder / MANIFEST
    if values.get("version") != VERSION:
        raise ArtifactError(f"{path}: format version {values.get('version')!r}; this gro reads version {VERSION}")
    seal = values.pop("sha256", None)
    try:
        if seal != _seal(values):
            raise ArtifactError(f"{path}: damaged: it was changed after it was written")
        manifest = Manifest.make(values, source=str(path))
    except ConfigError as error:
        raise ArtifactError(f"{error}: the manifest is malformed") from None
    except ValueError:
        raise ArtifactError(f"{path}: damaged: it holds a number that is nan or infinite") from None
    if manifest.files.keys() != set(CONTENTS):
        raise ArtifactError(f"{path}: malformed: it must list the files {' and '.join(CONTENTS)}")
    return manifest


def read_any_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest as far as to know that it is one of gro, of whatever version.

    Raises:
        ArtifactError: there is none, or it is another tool's.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise ArtifactError(f"{folder}: {_what_is_there(folder)}: there is no {MANIFEST}")
    try:
        values = json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: damaged or foreign: not JSON") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ArtifactError(f"{path}: foreign: not the manifest of an artifact of gro")
    return values


def read_bytes(path: Path) -> bytes:
    """Read a file whole.

    Raises:
        ArtifactError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {reason(error)}") from None


def reason(error: OSError) -> str:
    """Return what the system says is wrong, in a few words."""
    return (error.strerror or str(error)).lower()


def _what_is_there(folder: Path) -> str:
    if (folder / STATE_FILE).exists():
        return "holds an unfinished training"
    return "not an artifact" if folder.exists() else "missing"


def _seal(values: Mapping[str, Any]) -> str:
    return sha256(json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
