"""Artifacts: a recommender in a folder, written whole or not at all, read only when intact.

An artifact holds ``model.safetensors`` (weights), ``items.json`` (token of every item id, position 0 is the padding)
and ``manifest.json`` (what the model is, where it comes from, and the SHA-256 of the other files and of itself).
Nothing in it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from torch import Tensor, nn

from gro import models
from gro._folders import install
from gro.config import ModelSettings, PositiveInt, Settings
from gro.errors import ArtifactError, ConfigError
from gro.models import StateRecommender
from gro.training import STATE_FILE

FORMAT: Final = "gro-artifact"
VERSION: Final = 1
WEIGHTS: Final = "model.safetensors"
ITEMS: Final = "items.json"
MANIFEST: Final = "manifest.json"
PACKAGES = ("gro", "torch", "numpy", "safetensors")

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
    metrics: dict[str, JsonValue]
    versions: dict[str, str]
    """Versions of Python and of the libraries that wrote the artifact."""
    files: dict[ContentFile, str]
    """SHA-256 of each other file, in hexadecimal."""


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A recommender read from a folder."""

    folder: Path
    model: StateRecommender
    """On the CPU, in evaluation mode."""
    manifest: Manifest
    item_tokens: npt.NDArray[np.str_]
    """Token of every item id, [n_items + 1]; position 0 is the padding."""


def save(
    folder: Path,
    *,
    model: StateRecommender,
    settings: ModelSettings,
    item_tokens: Sequence[str] | npt.NDArray[np.str_],
    dataset: Mapping[str, str],
    seed: int,
    command: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Manifest:
    """Write an artifact; ``folder`` is as before until the whole of it is on the disk.

    Replaces an artifact, an empty folder or the state of a training that was interrupted; refuses any other.

    Args:
        folder: where to write; its parents are made.
        model: recommender on any device.
        settings: architecture of ``model``; of a subclass only the fields of :class:`ModelSettings` are kept.
        item_tokens: token of every item id ``[n_items + 1]``, as in :class:`gro.data.Sequences`.
        dataset: ``name`` and ``digest`` of the data.
        seed: seed of the training.
        command: settings of the command, JSON values.
        metrics: what was measured, JSON values; not NaN.

    Raises:
        ArtifactError: the folder may not be replaced or cannot be written, or the parts do not fit together.
    """
    folder = folder.resolve()
    _require_replaceable(folder)
    architecture = ModelSettings(**{name: getattr(settings, name) for name in ModelSettings.model_fields})
    contents: dict[ContentFile, bytes] = {
        WEIGHTS: _weights(folder, model, architecture),
        ITEMS: _items(folder, item_tokens, model.n_items),
    }
    try:
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model=architecture,
            n_items=model.n_items,
            dataset=DatasetIdentity(**dataset),
            seed=seed,
            settings=dict(command),
            metrics=dict(metrics),
            versions=_versions(),
            files={name: _sha256(content) for name, content in contents.items()},
        )
        sealed = _seal(manifest.model_dump(mode="json"))
    except ValueError as error:
        raise ArtifactError(f"{folder}: not written: {_one_line(error)}") from None
    _write(folder, {**contents, MANIFEST: sealed})
    return manifest


def load(folder: Path) -> Artifact:
    """Read an artifact, its checksums first; while another process replaces it, the old or the new one is read.

    Raises:
        ArtifactError: the artifact is missing, damaged, foreign or of a newer format.
    """
    while True:
        seen = _identity(folder)
        try:
            manifest = _manifest(folder)
            contents = {name: _verified(folder / name, manifest.files[name]) for name in CONTENTS}
        except ArtifactError:
            if _identity(folder) == seen:
                raise
        else:
            tokens = _tokens(folder, contents[ITEMS], manifest.n_items)
            return Artifact(folder, _model(folder, contents[WEIGHTS], manifest), manifest, tokens)


def _require_replaceable(folder: Path) -> None:
    try:
        names = {entry.name for entry in folder.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot hold an artifact: {_reason(error)}") from None
    if strange := sorted(names - {*CONTENTS, MANIFEST, STATE_FILE}):
        raise ArtifactError(f"{folder}: not replaced: it holds '{strange[0]}', which is no part of an artifact")
    if names - {STATE_FILE}:
        try:
            _raw_manifest(folder)
        except ArtifactError:
            raise ArtifactError(f"{folder}: not replaced: it is not an artifact of gro; choose another folder") from None


def _weights(folder: Path, model: StateRecommender, settings: ModelSettings) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _distinct(model).items()}
    if mismatch := _mismatch(tensors, settings, model.n_items):
        raise ArtifactError(f"{folder}: not written: the settings do not describe the model: {mismatch}")
    return safetensors.torch.save(tensors)


def _items(folder: Path, tokens: Sequence[str] | npt.NDArray[np.str_], n_items: int) -> bytes:
    if len(tokens) != n_items + 1:
        raise ArtifactError(f"{folder}: not written: {len(tokens)} item tokens; the model needs {n_items + 1}")
    return json.dumps([str(token) for token in tokens]).encode()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _seal(values: Mapping[str, Any]) -> bytes:
    return json.dumps({**values, "sha256": _seal_of(values)}, indent=2, allow_nan=False).encode()


def _seal_of(values: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


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
        raise ArtifactError(f"{folder}: cannot be written: {_reason(error)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _manifest(folder: Path) -> Manifest:
    values = _raw_manifest(folder)
    path = folder / MANIFEST
    if values.get("version") != VERSION:
        raise ArtifactError(f"{path}: format version {values.get('version')!r}; this gro reads version {VERSION}")
    seal = values.pop("sha256", None)
    try:
        if seal != _seal_of(values):
            raise ArtifactError(f"{path}: damaged: it was changed after it was written")
        manifest = Manifest.make(values, source=str(path))
    except (ConfigError, ValueError) as error:
        raise ArtifactError(f"{path}: malformed: {_one_line(error)}") from None
    if manifest.files.keys() != set(CONTENTS):
        raise ArtifactError(f"{path}: malformed: it must list {' and '.join(CONTENTS)}")
    return manifest


def _raw_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        unfinished = (folder / STATE_FILE).exists()
        problem = "holds an unfinished training" if unfinished else "not an artifact" if folder.exists() else "missing"
        raise ArtifactError(f"{folder}: {problem}: there is no {MANIFEST}")
    try:
        values = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: damaged or foreign: not JSON") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ArtifactError(f"{path}: foreign: not the manifest of an artifact of gro")
    return values


def _verified(path: Path, sha256: str) -> bytes:
    content = _read(path)
    if _sha256(content) != sha256:
        raise ArtifactError(f"{path}: damaged: its SHA-256 is not the one in {MANIFEST}")
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {_reason(error)}") from None


def _tokens(folder: Path, content: bytes, n_items: int) -> npt.NDArray[np.str_]:
    try:
        tokens = json.loads(content)
    except (ValueError, RecursionError):
        tokens = None
    if not isinstance(tokens, list) or len(tokens) != n_items + 1 or not all(isinstance(t, str) for t in tokens):
        raise ArtifactError(f"{folder / ITEMS}: malformed: it must be a list of {n_items + 1} item tokens")
    return np.array(tokens, dtype=np.str_)


def _model(folder: Path, content: bytes, manifest: Manifest) -> StateRecommender:
    path = folder / WEIGHTS
    try:
        tensors = safetensors.torch.load(content)
        mismatch = _mismatch(tensors, manifest.model, manifest.n_items)
    except (SafetensorError, ConfigError) as error:
        raise ArtifactError(f"{path}: malformed: {_one_line(error)}") from None
    if mismatch:
        raise ArtifactError(f"{path}: the weights are not those of the model that {MANIFEST} describes: {mismatch}")
    model = models.build(manifest.model, manifest.n_items)
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def _distinct(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the model once, under the first of its names: tied weights have several."""
    state = model.state_dict(keep_vars=True)
    first = {id(state[name]): name for name in reversed(list(state))}
    return {name: tensor for name, tensor in state.items() if first[id(tensor)] == name}


def _mismatch(tensors: Mapping[str, Tensor], settings: ModelSettings, n_items: int) -> str:
    """First difference between tensors and those of a model with these settings; empty if there is none."""
    with torch.device("meta"):
        wanted = {name: _describe(tensor) for name, tensor in _distinct(models.build(settings, n_items)).items()}
    found = {name: _describe(tensor) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            return f"{name} is {found.get(name, 'missing')}, not {wanted.get(name, 'expected')}"
    return ""


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
