"""Write and read artifacts."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gro.artifacts import weights
from gro.artifacts.folders import install
from gro.artifacts.manifest import (
    CONTENTS,
    FORMAT,
    ITEMS,
    MANIFEST,
    VERSION,
    WEIGHTS,
    Manifest,
    read_any_manifest,
    read_bytes,
    read_manifest,
    reason,
    sha256,
    write_manifest,
)
from gro.config import ModelSettings
from gro.errors import ArtifactError, ConfigError
from gro.models import StateRecommender
from gro.training import STATE_FILE

TEMPORARY = f".{STATE_FILE}."
PACKAGES = ("gro", "torch", "numpy", "safetensors")
_PATIENCE = (0.0, 0.001, 0.01, 0.1)
"""Seconds before each look at a folder that is away, as one is for a moment where two cannot be exchanged at once."""

Tokens = Sequence[str] | npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A recommender read from a folder."""

    folder: Path
    model: StateRecommender
    """On the CPU, in evaluation mode."""
    others: tuple[StateRecommender, ...]
    """The models that answer with it."""
    manifest: Manifest
    item_tokens: npt.NDArray[np.str_]
    """Token of every item id, [n_items + 1]; position 0 is the padding."""


def save(
    folder: Path,
    *,
    model: StateRecommender,
    settings: ModelSettings,
    item_tokens: Tokens,
    dataset: Mapping[str, str],
    seed: int,
    command: Mapping[str, Any],
    metrics: Mapping[str, Any],
    others: Sequence[StateRecommender] = (),
    defence: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write an artifact; ``folder`` is as before until the whole of it is on the disk.

    Replaces an artifact, an empty folder or the state of an interrupted training; refuses any other folder.

    Args:
        folder: where to write; its parents are made.
        model: recommender on any device.
        settings: architecture of ``model``; of a subclass only the fields of :class:`ModelSettings` are kept.
        item_tokens: token of every item id ``[n_items + 1]``, as in :class:`gro.data.Sequences`.
        dataset: ``name`` and ``digest`` of the data.
        seed: seed of the training.
        command: settings of the command, JSON values.
        metrics: what was measured, JSON values; ``None``, not nan, where there is no figure.
        others: the models that answer with it, all of one architecture, which may be another, and of the same size.
        defence: what stands in front of the model when it is served, JSON values.

    Raises:
        ArtifactError: the folder may not be replaced or cannot be written, or the parts do not fit together.
    """
    folder = folder.resolve()
    require_replaceable(folder)
    own = settings.part(ModelSettings)
    kinds = [own, *(own.model_copy(update={"model": type(each).__name__}) for each in others)]
    try:
        contents = {WEIGHTS: weights.pack([model, *others], kinds), ITEMS: _pack_tokens(item_tokens, model.n_items)}
        values = {
            "format": FORMAT,
            "version": VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": own,
            "n_items": model.n_items,
            "dataset": dataset,
            "seed": seed,
            "settings": command,
            "members": len(kinds),
            "others": kinds[-1].model if others else None,
            "defence": defence,
            "metrics": metrics,
            "versions": _versions(),
            "files": {name: sha256(content) for name, content in contents.items()},
        }
        manifest = Manifest.make(values, source="manifest")
        contents[MANIFEST] = write_manifest(manifest.model_dump(mode="json"))
    except (ArtifactError, ConfigError) as error:
        raise ArtifactError(f"{folder}: not written: {error}") from None
    except ValueError:
        raise ArtifactError(f"{folder}: not written: a metric or a setting is nan or infinite") from None
    _write(folder, contents)
    return manifest


def require_replaceable(folder: Path) -> None:
    """Check, before a long training, that :func:`save` will not refuse ``folder``.

    Raises:
        ArtifactError: it is a file, or a folder that holds anything but an artifact or an interrupted training.
    """
    try:
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(TEMPORARY)}
    except FileNotFoundError:
        return
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot hold an artifact: {reason(error)}") from None
    if strange := sorted(names - {*CONTENTS, MANIFEST, STATE_FILE}):
        raise ArtifactError(f"{folder}: not replaced: it holds '{strange[0]}', which is no part of an artifact")
    try:
        if names - {STATE_FILE}:
            read_any_manifest(folder)
    except ArtifactError:
        raise ArtifactError(f"{folder}: not replaced: it is not an artifact of gro; choose another folder") from None


def load(folder: Path) -> Artifact:
    """Read an artifact, its checksums first; while another process replaces it, the old or the new one is read.

    Raises:
        ArtifactError: the artifact is missing, damaged, foreign or of another format version.
    """
    while True:
        seen = _identity(folder)
        try:
            manifest = read_manifest(folder)
            contents = {name: _verified(folder / name, manifest.files[name]) for name in CONTENTS}
        except ArtifactError:
            if _identity(folder) == seen:
                raise
        else:
            return _artifact(folder, manifest, contents[WEIGHTS], contents[ITEMS])


def _artifact(folder: Path, manifest: Manifest, tensors: bytes, tokens: bytes) -> Artifact:
    item_tokens = _unpack_tokens(folder / ITEMS, tokens, manifest.n_items)
    try:
        model, *others = weights.unpack(tensors, manifest.models, manifest.n_items)
    except ArtifactError as error:
        raise ArtifactError(f"{folder / WEIGHTS}: {error}") from None
    return Artifact(folder, model, tuple(others), manifest, item_tokens)


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        for name, content in contents.items():
            with (partial / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        install(partial, folder)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written: {reason(error)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _verified(path: Path, checksum: str) -> bytes:
    content = read_bytes(path)
    if sha256(content) != checksum:
        raise ArtifactError(f"{path}: damaged: its SHA-256 is not the one in {MANIFEST}")
    return content


def _identity(folder: Path) -> tuple[int, int] | None:
    for pause in _PATIENCE:
        time.sleep(pause)
        with contextlib.suppress(OSError):
            status = folder.stat()
            return status.st_ino, status.st_mtime_ns
    return None


def _pack_tokens(tokens: Tokens, n_items: int) -> bytes:
    if len(tokens) != n_items + 1:
        raise ArtifactError(f"{len(tokens)} item tokens; the model needs {n_items + 1}")
    return json.dumps([str(token) for token in tokens]).encode()


def _unpack_tokens(path: Path, content: bytes, n_items: int) -> npt.NDArray[np.str_]:
    try:
        tokens = json.loads(content)
    except (ValueError, RecursionError):
        tokens = None
    if not isinstance(tokens, list) or len(tokens) != n_items + 1 or not all(isinstance(t, str) for t in tokens):
        raise ArtifactError(f"{path}: malformed: it must be a list of {n_items + 1} item tokens")
    return np.array(tokens, dtype=np.str_)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
