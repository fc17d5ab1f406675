from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gro.config import DataSettings

Write = Callable[..., DataSettings]


@pytest.fixture(autouse=True)
def no_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the machine's data folder nor its cache plays a part."""
    monkeypatch.delenv("GRO_DATA_PATH", raising=False)
    monkeypatch.setenv("GRO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the text or bytes of toy/toy.inter; return settings that find it."""

    def write(content: str | bytes, **settings: object) -> DataSettings:
        path = tmp_path / "data" / "toy" / "toy.inter"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return DataSettings.make({"dataset": "toy", "data_path": tmp_path / "data", **settings})

    return write
