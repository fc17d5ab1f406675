from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gro.service.analysis.analyse import analyse
from gro.service.monitor import files
from gro.service.monitor.calibration import Calibration

THIEF = "<b>thief</b> & $x$"
Logged = Callable[[Iterable[Any]], Path]


@dataclass(frozen=True)
class Report:
    """A report of the calls, made with the calibration."""

    folder: Path
    numbers: dict[str, Any]


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    """Writes calls as a query log."""

    def written(calls: Iterable[Any]) -> Path:
        (tmp_path / "log.jsonl").write_text(_lines(calls))
        return tmp_path / "log.jsonl"

    return written


@pytest.fixture(scope="session")
def calls(world: Any) -> list[Any]:
    """Calls of thirty people, who at times skip an item, and of a thief with a name to beware of, by time."""
    w = world(11)
    thief = [call for _ in range(4) for call in w.calls(THIEF, 50, lambda history, listed: w.anything())]
    people = [call for number, call in enumerate(w.people(30)) if number % 7]
    return sorted([*people, *thief], key=lambda call: call.time)


@pytest.fixture(scope="session")
def log(calls: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calls as a query log."""
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_text(_lines(calls))
    return path


@pytest.fixture(scope="session")
def calibrated(calibration: Calibration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calibration as a file."""
    path = tmp_path_factory.mktemp("calibration") / "calibration.safetensors"
    files.write(path, calibration)
    return path


@pytest.fixture(scope="session")
def report(log: Path, calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of the calls."""
    folder = tmp_path_factory.mktemp("report") / "report"
    return Report(folder, analyse(log=log, calibration=calibrated, out=folder))


def _lines(calls: Iterable[Any]) -> str:
    rows = (
        {"time": c.time, "account": c.account, "history": c.history.tolist(), "list": c.listed.tolist()} for c in calls
    )
    return "".join(f"{json.dumps(row)}\n" for row in rows)
