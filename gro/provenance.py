"""What made a committed number: the machine, the versions and the day."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version

import torch

PACKAGES = ("gro", "torch", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def here_and_now() -> dict[str, str]:
    """Today's date, UTC, and the card or the CPU threads that compute."""
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"date": datetime.now(UTC).date().isoformat(), "machine": machine}
