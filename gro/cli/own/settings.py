"""Settings of ``gro own``."""

from __future__ import annotations

from pathlib import Path

from gro.config import Settings


class KeygenCommand(Settings):
    """Settings of ``gro own keygen``."""

    key: Path
    """File for the private key; the public one is written beside it, as KEY.pub."""
