"""Processes of their own, and what Linux says of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Found = TypeVar("Found")


def alone(task: Callable[Given, Found], *args: Given.args, **kwargs: Given.kwargs) -> Found:
    """Do something in a fresh process."""
    with pool() as one:
        return one.submit(task, *args, **kwargs).result()


def pool() -> ProcessPoolExecutor:
    """A fresh process that does one thing after the other."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def resident(pid: int | str | None = "self") -> int:
    """Bytes of a process in memory."""
    return 1024 * _status(pid, "VmRSS")


def threads(pid: int | str | None = "self") -> int:
    """Threads of a process."""
    return _status(pid, "Threads")


def descriptors(pid: int | str | None = "self") -> int:
    """Open file descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _status(pid: int | str | None, name: str) -> int:
    return int(Path(f"/proc/{pid}/status").read_text(encoding="ascii").split(f"\n{name}:")[1].split()[0])
