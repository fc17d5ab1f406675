"""What ``gro doctor`` looks at: whether this machine can do what the library promises."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from gro import _recbole as recbole
from gro.data import available
from gro.errors import GroError

PYTHONS = ((3, 11), (3, 13))
TESTED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"torch": ("2.13", "2.15"), "numpy": ("2.4", "2.5"), "scipy": ("1.17", "1.18"), "pandas": ("3.1", "3.1")}
)
"""Oldest and newest tested version of each package that the models and the data stand on."""
RECBOLE = "1.2.1"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding of :func:`diagnose`."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    """What would mend it; empty where nothing has to be done."""


def diagnose() -> list[Check]:
    """Look at Python, the packages, RecBole, the optional extras, the datasets and the accelerator; changes nothing."""
    checks = [_python(), *(_package(name) for name in TESTED), _recbole_installed()]
    if checks[-1].ok:
        checks.append(_recbole_works())
    return [*checks, _ray(), *_extras(), *_data(), _cuda()]


def _python() -> Check:
    low, high = (".".join(map(str, version)) for version in PYTHONS)
    ok = sys.version_info[:2] >= PYTHONS[0]
    tested = ok and sys.version_info[:2] <= PYTHONS[1]
    detail = platform.python_version() + ("" if tested else f", tested with {low} to {high}")
    return Check("python", ok, detail, "" if ok else f"use Python {low} to {high}")


def _package(name: str) -> Check:
    low, high = TESTED[name]
    version = _version(name)
    if version is None:
        return Check(name, False, "not installed", f"pip install '{name}>={low}'")
    ok = _release(version) >= _release(low)
    tested = ok and _release(version) <= _release(high)
    detail = version + ("" if tested else f", tested with {low} to {high}")
    return Check(name, ok, detail, "" if ok else f"pip install '{name}>={low}'")


def _recbole_installed() -> Check:
    missing, version = recbole.missing_packages(), _version("recbole")
    if missing:
        return Check("recbole", False, f"missing: {', '.join(missing)}", " && ".join(recbole.INSTALL))
    if version != RECBOLE:
        return Check("recbole", False, f"{version}, tested with {RECBOLE}", recbole.INSTALL[1])
    return Check("recbole", True, f"{version} and the packages it needs")


def _recbole_works() -> Check:
    try:
        model = recbole.build("SASRec", n_items=5, max_length=4, hyper={"hidden_size": 8, "inner_size": 8})
        with torch.no_grad():
            model.scores(torch.tensor([[1, 2, 3, 0]]))
    except GroError as error:
        return Check("recbole works", False, str(error), " && ".join(recbole.INSTALL))
    return Check("recbole works", True, "a model was built and scored a history")


def _ray() -> Check:
    version = _version("ray")
    if version is None:
        return Check("ray", True, "not installed, and not needed")
    ok = _release(version) > (2, 6)
    detail = f"{version}, not used here" + ("" if ok else "; named in CVE-2023-48022")
    return Check("ray", ok, detail, "" if ok else "pip uninstall ray")


def _extras() -> Iterator[Check]:
    for extra, packages in sorted(_extra_packages().items()):
        missing = [package for package in packages if _version(package) is None]
        detail = f"optional, not installed: {', '.join(missing)}" if missing else f"installed: {', '.join(packages)}"
        yield Check(f"extra {extra}", True, detail, f"pip install gro[{extra}]" if missing else "")


def _extra_packages() -> dict[str, list[str]]:
    packages: dict[str, list[str]] = defaultdict(list)
    try:
        requirements = importlib.metadata.requires("gro") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    for requirement in requirements:
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", requirement)
        if name and extra and name[0] != "gro":
            packages[extra[1]].append(name[0])
    return packages


def _data() -> Iterator[Check]:
    folder = os.environ.get("GRO_DATA_PATH")
    if folder and not Path(folder).is_dir():
        remedy = "set GRO_DATA_PATH to a folder that holds NAME/NAME.inter"
        yield Check("GRO_DATA_PATH", False, f"{folder}: no such folder", remedy)
    found = [f"{row.name} ({row.source.origin})" for row in available() if row.source]
    remedy = "" if found else " && ".join(recbole.INSTALL)
    yield Check("datasets", bool(found), ", ".join(found) or "none, not even RecBole's ml-100k", remedy)


def _cuda() -> Check:
    if not torch.cuda.is_available():
        return Check("cuda", True, "none: the CPU is used")
    names = (torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return Check("cuda", True, ", ".join(names))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
