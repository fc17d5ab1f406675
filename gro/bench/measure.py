"""Two sides measured in turn in one run, and peak memory in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypedDict

Task = Callable[[], object]


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


def peak_memory(task: Callable[[], Task]) -> float:
    """Bytes by which a fresh process grows at most while it runs the task that ``task`` prepares."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_grow, task).result()


def _grow(prepare: Callable[[], Task]) -> float:
    task = prepare()
    before = _peak()
    task()
    return float(_peak() - before)


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss starts at the parent's
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def faster(ours: float, theirs: float, unit: str = "s") -> Measured:
    """How many times ours goes into theirs: the speed-up, the higher the better."""
    return {"ratio": theirs / ours, "ours": ours, "theirs": theirs, "unit": unit}


def costs(ours: float, theirs: float, unit: str) -> Measured:
    """How many times theirs goes into ours: the price, the lower the better."""
    return {"ratio": ours / theirs, "ours": ours, "theirs": theirs, "unit": unit}
