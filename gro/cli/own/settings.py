"""Settings of ``gro own``."""

from __future__ import annotations

from pathlib import Path

from gro.config import DeviceSettings, Settings
from gro.service.analysis.settings import Paths


class KeygenCommand(Settings):
    """Settings of ``gro own keygen``."""

    key: Path
    """File for the private key; the public one is written beside it, as KEY.pub."""


class CompareCommand(DeviceSettings):
    """Settings of ``gro own compare``."""

    runs: Paths
    """The two artifacts."""
    innocents: Path | None = None
    """Folder of independent models, such as ``gro own innocents`` makes of the first run, to compare with."""
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""
