"""The speed and the load that the guard promises, against slowapi in the same run."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from gro.errors import MissingExtraError

NEEDED: Final = {"slowapi": "slowapi", "starlette": "gro[service]", "uvicorn": "gro[service]", "jwt": "gro[service]"}
"""Modules, and what they are installed as."""
SOAKED: Final = 0.5
"""Load of the soak, as a share of the highest."""


def run(
    seconds: float, accounts: int, minutes: float, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measure load, memory and a soak, one after the other.

    Args:
        seconds: of load on each side.
        accounts: whose memory is weighed.
        minutes: of the soak.
        report: receives a line about each as it begins.

    Returns:
        What :func:`gro.bench.guard.load.load`, :func:`gro.bench.guard.memory.memory` and
        :func:`gro.bench.guard.soak.soak` return, by those names, ``cores`` that all shared, and
        ``versions`` of what was measured.

    Raises:
        MissingExtraError: slowapi, or what the guard needs, is not installed.
    """
    if missing := sorted({package for module, package in NEEDED.items() if find_spec(module) is None}):
        raise MissingExtraError(f"the guard is timed against slowapi: pip install {' '.join(missing)}")
    from gro.bench.guard.load import load  # noqa: PLC0415 -- needs what is looked for first
    from gro.bench.guard.memory import memory  # noqa: PLC0415
    from gro.bench.guard.soak import soak  # noqa: PLC0415

    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report(f"load: {seconds:.0f} s on each side, after some to find the highest")
        loaded = load(folder / "load", seconds)
        report(f"memory: {accounts:,} accounts")
        weighed = memory(folder / "memory", accounts)
        report(f"soak: {minutes:g} minutes")
        soaked = soak(folder / "soak", 60 * minutes, SOAKED * loaded["guard"]["throughput"])
    versions = {package: version(package) for package in ("slowapi", "starlette", "uvicorn", "pydantic")}
    cores = len(os.sched_getaffinity(0))
    return {"cores": cores, "load": loaded, "memory": weighed, "soak": soaked, "versions": versions}
