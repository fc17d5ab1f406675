"""Settings of ``gro logs analyse``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from gro.config import Settings


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path) else value


Paths: TypeAlias = Annotated[tuple[Path, ...], BeforeValidator(_several), Field(min_length=1)]


class AnalyseCommand(Settings):
    """Settings of ``gro logs analyse``."""

    log: Paths
    """Query log: a file, or several in order of time; they may be compressed with gzip."""
    calibration: Path | None = None
    """File that ``gro guard calibrate`` wrote; without one, no account is flagged."""
    out: Path = Path("report")
    """Folder of the report."""
