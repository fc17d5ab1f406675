"""Two sides measured in turn in one run, and peak memory in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypedDict

Task = Callable[[], object]

GLIBC_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
PEAK_RESET = Path("/proc/self/clear_refs")
"""Writing 5 makes Linux forget the peak so far (man 5 proc); peak memory is measured on Linux alone."""


class Measured(TypedDict):
    """One line of the benchmark: seconds, bytes or rates of both sides and the ratio that the bar is set on."""

    ratio: float
    ours: float
    theirs: float
    unit: str


def seconds(task: Task) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def paired(ours: Task, theirs: Task, *, repeats: int, warm_up: bool = True) -> tuple[float, float]:
    """Median seconds of both tasks, run in turn."""
    if warm_up:
        ours()
        theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def peak_memory(prepare: Callable[[], Task]) -> float:
    """Bytes that a task uses at most beyond what its process holds before and after it.

    Measured on the second run in a fresh process, when libraries are loaded and optimizers have their state; the
    allocator is told to give freed blocks back at once, so that the figure is what is used rather than what is hoarded.
    """
    hoarding = os.environ.get(GLIBC_THRESHOLD)
    os.environ[GLIBC_THRESHOLD] = "65536"
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_grow, prepare).result()
    finally:
        os.environ.pop(GLIBC_THRESHOLD)
        if hoarding is not None:
            os.environ[GLIBC_THRESHOLD] = hoarding


def _grow(prepare: Callable[[], Task]) -> float:
    task = prepare()
    task()
    PEAK_RESET.write_text("5")
    before = _status("VmRSS:")
    task()
    return float(_status("VmHWM:") - before)


def _status(name: str) -> int:
    return 1024 * int(Path("/proc/self/status").read_text().split(name)[1].split()[0])


def faster(ours: float, theirs: float, unit: str = "s") -> Measured:
    """How many times ours goes into theirs: the speed-up, the higher the better."""
    return {"ratio": theirs / ours, "ours": ours, "theirs": theirs, "unit": unit}


def costs(ours: float, theirs: float, unit: str) -> Measured:
    """How many times theirs goes into ours: the price, the lower the better."""
    return {"ratio": ours / theirs, "ours": ours, "theirs": theirs, "unit": unit}
