"""What a verb leaves behind, and how the next one finds it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gro import artifacts
from gro.artifacts import Artifact
from gro.config import DataSettings, Settings
from gro.data import Sequences, load
from gro.errors import ArtifactError, ConfigError
from gro.models import StateRecommender

MACHINE = {"out", "device", "data_path", "run", "from_"}
"""Settings that say where, not what: they do not tell one run from another."""


@dataclass(frozen=True)
class Run:
    """What a verb made: a folder and a report.

    Of a theft also the place of each test user's next item in the ranking of the target, the copy and the floor.
    """

    path: Path
    report: dict[str, Any]
    places: dict[str, list[int]] = field(default_factory=dict)

    @property
    def model(self) -> StateRecommender:
        """The recommender in the folder."""
        return artifacts.load(self.path).model


def identity(command: Settings) -> dict[str, Any]:
    """What tells one run from another."""
    return {name: value for name, value in command.model_dump(mode="json").items() if name not in MACHINE}


def finished(out: Path, command: Settings) -> Run | None:
    """The run of this command that is already at ``out``; see :func:`finished_as`."""
    return finished_as(out, identity(command))


def finished_as(out: Path, described: dict[str, Any]) -> Run | None:
    """The run that is already at ``out``, if it is the one that is described; another one is never overwritten.

    Raises:
        ArtifactError: the folder holds another run, or something else.
    """
    if not (out / artifacts.MANIFEST).exists():
        artifacts.require_replaceable(out)
        return None
    manifest = artifacts.load(out).manifest
    for name, value in described.items():
        if manifest.settings.get(name) != value:
            found = manifest.settings.get(name)
            raise ArtifactError(f"{out}: holds a run with {name} = {found!r}, not {value!r}; choose another --out")
    return Run(out, dict(manifest.metrics))


def dataset_of(artifact: Artifact, data_path: Path | None) -> Sequences:
    """The interactions that a run was made from, read again.

    Raises:
        GroError: it is missing, or not the one that the run was made from.
    """
    made_with = {k: v for k, v in artifact.manifest.settings.items() if k in DataSettings.model_fields}
    if data_path is not None:
        made_with["data_path"] = str(data_path)
    sequences = load(DataSettings.make(made_with, f"{artifact.folder}"))
    if sequences.digest != artifact.manifest.dataset.digest:
        raise ArtifactError(f"{artifact.folder}: made from other interactions than {sequences.name} as it is read now")
    return sequences


def lists_of(artifact: Artifact) -> int:
    """How many items a run's lists have before its defence shortens them."""
    return int(str(artifact.manifest.settings.get("k") or min(100, artifact.model.n_items)))


def device_named(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one.

    Raises:
        ConfigError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise ConfigError(f"device is '{name}'; use 'auto', 'cpu' or a CUDA device of this machine") from None
