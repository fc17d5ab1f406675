from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest

from gro.cli.doctor import Check, diagnose


def found() -> dict[str, Check]:
    return {check.name: check for check in diagnose()}


def versions(monkeypatch: pytest.MonkeyPatch, **chosen: str | None) -> None:
    real = importlib.metadata.version

    def version(package: str) -> str:
        if package not in chosen:
            return real(package)
        if (answer := chosen[package]) is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return answer

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_this_machine_is_fit() -> None:
    checks = found()
    assert {
        "python",
        "torch",
        "numpy",
        "scipy",
        "pandas",
        "recbole",
        "recbole works",
        "ray",
        "datasets",
    } <= checks.keys()
    assert [check for check in checks.values() if not check.ok] == []
    assert "ml-100k" in checks["datasets"].detail


def test_what_is_wrong_has_a_remedy_and_every_finding_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, numpy="1.26.4", scipy=None, pandas="99.0", ray="2.6.3", recbole="1.1.0")
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    checks = found()
    wrong = {name for name, check in checks.items() if not check.ok}
    assert wrong == {"python", "numpy", "scipy", "ray", "recbole"}
    assert all(check.remedy for check in checks.values() if not check.ok)
    assert "\n" not in "".join(check.detail + check.remedy for check in checks.values())
    assert checks["scipy"].detail == "not installed"
    assert checks["pandas"].detail.startswith("99.0, tested with")
    assert checks["ray"].remedy == "pip uninstall ray"


def test_without_recbole_the_two_lines_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "recbole" else find(name))
    monkeypatch.setenv("GRO_CACHE", str(tmp_path))
    monkeypatch.delenv("GRO_DATA_PATH", raising=False)
    checks = found()
    lines = "pip install gro[recbole] && pip install --no-deps recbole==1.2.1"
    assert (checks["recbole"].ok, checks["recbole"].remedy) == (False, lines)
    assert (checks["datasets"].ok, checks["datasets"].remedy) == (False, lines)
    assert "recbole works" not in checks


def test_a_data_path_that_is_no_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRO_DATA_PATH", str(tmp_path / "none"))
    assert not found()["GRO_DATA_PATH"].ok


def test_extras_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = [
        "torch>=2",
        "pyyaml; extra == 'recbole'",
        'no-such-thing>=1; extra == "dp"',
        "gro[dp]; extra == 'all'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    checks = found()
    assert checks["extra recbole"].detail == "installed: pyyaml"
    assert checks["extra dp"] == Check(
        "extra dp", True, "optional, not installed: no-such-thing", "pip install gro[dp]"
    )
    assert "extra all" not in checks
