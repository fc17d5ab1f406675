"""The highest load that a service holds, plain, behind slowapi and behind the guard, and what each then costs."""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np

from gro.bench.guard.client import HOST, Connection, Told, drive, percentiles
from gro.bench.guard.process import alone
from gro.bench.guard.server import SIDES, served
from gro.bench.guard.stopwatch import TIMES
from gro.bench.guard.world import LENGTH, Asker, Catalogue, scene

ACCOUNTS: Final = 1_000
MOST: Final = 256
"""Connections that ask at once at most."""
GAIN: Final = 1.03
"""By how much more connections have to raise the throughput, within two doublings, to be worth it."""
STEP: Final = 0.1
"""Share of the time of a measurement that each step towards the highest load takes."""
TURNS: Final = 5
"""Parts of a measurement, between which the other sides have theirs."""


def load(folder: Path, seconds: float, accounts: int = ACCOUNTS) -> dict[str, Any]:
    """Measure all three at the highest load that each holds, in turns.

    Args:
        folder: to make, for the guard's files.
        seconds: of each side's measurement, after the steps that find its highest load.
        accounts: that ask, people all.

    Returns:
        By side: ``connections`` that ask at once at the highest load, ``throughput`` in answers per second, and
        ``p50`` and ``p99`` in milliseconds of ``latency``, as the client sees it, and of ``overhead``, what the
        middleware takes of it; of the plain side that is what the stopwatch takes itself.
    """
    made = scene(folder, accounts)
    with ExitStack() as stack:
        ports: dict[str, int] = {side: stack.enter_context(served(side, made.settings)).port for side in SIDES}
        return alone(_measured, ports, made.keys, seconds)


def _measured(ports: Mapping[str, int], keys: Sequence[str], seconds: float) -> dict[str, Any]:
    sides = {side: _Side(port, keys) for side, port in ports.items()}

    async def measure() -> None:
        await _climb(list(sides.values()), min(MOST, len(keys)), STEP * seconds)
        for _ in range(TURNS):
            for side in sides.values():
                await side.turn(seconds / TURNS)

    asyncio.run(measure())
    return {name: side.found() for name, side in sides.items()}


class _Side:
    """A service that is measured."""

    def __init__(self, port: int, keys: Sequence[str]) -> None:
        catalogue = Catalogue()
        self._port = port
        self._askers = [
            Asker(catalogue, key, Random(number), past=LENGTH)  # noqa: S311 -- play
            for number, key in enumerate(keys)
        ]
        self._steps: list[dict[str, float]] = []
        self._turns: list[tuple[Told, array[float]]] = []

    @property
    def grows(self) -> bool:
        """Whether the last two steps were worth it."""
        rates = [step["throughput"] for step in self._steps]
        return len(rates) < 3 or max(rates[-2:]) > GAIN * max(rates[:-2])

    @property
    def connections(self) -> int:
        """The fewest at which there is nothing to gain."""
        best = max(step["throughput"] for step in self._steps)
        return next(int(step["connections"]) for step in self._steps if GAIN * step["throughput"] >= best)

    async def step(self, connections: int, seconds: float) -> None:
        """Ask from so many connections."""
        told = await self._drive(connections, seconds)
        self._steps.append({"connections": connections, "throughput": _rate(told), **percentiles(told.latencies)})

    async def turn(self, seconds: float) -> None:
        """Measure for a while."""
        await self._times()
        told = await self._drive(self.connections, seconds)
        self._turns.append((told, await self._times()))

    def found(self) -> dict[str, Any]:
        """What was measured."""
        told = [each for each, _ in self._turns]
        return {
            "connections": self.connections,
            "throughput": float(np.median([_rate(each) for each in told])),
            "latency": percentiles(np.concatenate([each.latencies for each in told])),
            "overhead": percentiles(np.concatenate([times for _, times in self._turns])),
            "sent": sum(each.sent for each in told),
            "timed": sum(len(times) for _, times in self._turns),
            "statuses": dict(sum((each.statuses for each in told), Counter[int]())),
            "client_busy": float(np.mean([each.busy for each in told])),
            "turns": [{"throughput": _rate(each), "overhead": percentiles(times)} for each, times in self._turns],
            "steps": self._steps,
        }

    async def _drive(self, connections: int, seconds: float) -> Told:
        return await drive(self._port, [_lane(self._askers[n::connections]) for n in range(connections)], seconds)

    async def _times(self) -> array[float]:
        connection = await Connection.open(self._port)
        _, body = await connection.ask(f"GET {TIMES} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode("ascii"))
        connection.close()
        return array("d", body)


async def _climb(sides: list[_Side], most: int, seconds: float) -> None:
    """Let more and more connections ask until no side gains by it."""
    connections = 1
    while sides and connections <= most:
        for side in sides:
            await side.step(connections, seconds)
        sides = [side for side in sides if side.grows]
        connections *= 2


def _lane(askers: Sequence[Asker]) -> Iterator[bytes]:
    return (asker.ask() for asker in cycle(askers))


def _rate(told: Told) -> float:
    return told.answered / told.seconds
