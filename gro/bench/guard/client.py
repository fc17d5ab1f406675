"""A client that asks as fast, or as steadily, as it is told to."""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

HOST: Final = "127.0.0.1"
PATH: Final = "/rank"
LATEST: Final = 4_096
"""Answers whose times are kept."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection:
    """A connection that is kept alive, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a server on this machine."""
        return cls(*await asyncio.open_connection(HOST, port))

    @property
    def ended(self) -> bool:
        """Whether the server hung up."""
        return self._reader.at_eof()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; the status and the body of the answer.

        Raises:
            OSError, EOFError: the server ended the connection.
        """
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        return int(head[9:12]), await self._reader.readexactly(int(length[1]) if length else 0)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def post(body: bytes, key: str) -> bytes:
    """A request for lists."""
    lines = (f"POST {PATH} HTTP/1.1", f"Host: {HOST}", f"X-API-Key: {key}", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "Content-Type: application/json", "", "")).encode("ascii") + body


@dataclass
class Told:
    """What became of requests.

    Attributes:
        sent: requests.
        cut: of them, those whose connection ended without a byte of an answer, or within one.
        statuses: of the answers.
        latencies: of the answers, in seconds.
        latest: when the latest answers came, by :func:`time.monotonic`.
        seconds: that all took.
        busy: share of them that the client's processor worked.
    """

    sent: int = 0
    cut: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: array[float] = field(default_factory=lambda: array("d"))
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    seconds: float = 0.0
    busy: float = 0.0

    @property
    def answered(self) -> int:
        """Requests that were answered, whatever the answer."""
        return len(self.latencies)


async def drive(port: int, lanes: Sequence[Iterator[bytes]], seconds: float, rate: float = 0.0) -> Told:
    """Ask for some seconds, or until the server hangs up.

    Args:
        port: of the server.
        lanes: endless requests, one lane a connection, which asks when it has its answer.
        seconds: how long.
        rate: requests per second of all together; 0: each asks as soon as it is answered.
    """
    told, opened = Told(), await asyncio.gather(*(Connection.open(port) for _ in lanes))
    begun, worked = time.perf_counter(), time.process_time()

    async def ask(number: int, connection: Connection) -> None:
        due = begun + number / (rate or 1)
        while time.perf_counter() < begun + seconds:
            if rate:
                await asyncio.sleep(due - time.perf_counter())
                due += len(lanes) / rate
            if connection.ended or not await _asked(connection, next(lanes[number]), told):
                return

    await asyncio.gather(*(ask(number, connection) for number, connection in enumerate(opened)))
    told.seconds = time.perf_counter() - begun
    told.busy = (time.process_time() - worked) / told.seconds
    for connection in opened:
        connection.close()
    return told


async def _asked(connection: Connection, request: bytes, told: Told) -> bool:
    """Ask, note what became of it, and say whether the connection goes on."""
    told.sent += 1
    begun = time.perf_counter()
    try:
        status, _ = await connection.ask(request)
    except (OSError, EOFError):
        told.cut += 1
        return False
    told.latencies.append(time.perf_counter() - begun)
    told.latest.append(time.monotonic())
    told.statuses[status] += 1
    return True


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """In milliseconds."""
    p50, p99 = 1000 * np.percentile(np.fromiter(seconds, np.float64), (50, 99))
    return {"p50": float(p50), "p99": float(p99)}
