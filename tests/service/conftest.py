from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gro.service.monitor.calibration import Calibration, calibrate

SERVER = "redis-server"
N_ITEMS, GROUPS, K = 300, 10, 30
Ids = npt.NDArray[np.int64]


class RedisServer:
    """A real one on a free loopback port, which keeps nothing; it can be hung, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        options += ["--save", "", "--appendonly", "no"]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([SERVER, *options], stdout=log, stderr=log)
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as peer:
                peer.sendall(b"PING\r\n")
                if peer.recv(16).startswith(b"+PONG"):
                    return
            time.sleep(0.01)
        pytest.fail(f"redis-server did not start: {(self._folder / 'redis.log').read_text()[-500:]}")

    def hang(self) -> None:
        """Let it accept connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that is empty and this test's alone."""
    if shutil.which(SERVER) is None:
        pytest.fail("redis-server is not installed: apt-get install redis-server (or: brew install redis)")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@dataclass(frozen=True)
class Call:
    account: str
    time: float
    history: Ids
    listed: Ids


class World:
    """Items in ten groups; the service lists items of the last item's group, and people mostly stay in theirs."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def answer(self, history: Ids) -> Ids:
        """Items of the group of the last item, in an order of the whole history's."""
        order = np.random.default_rng(int(history.sum()) % 2**32)
        group = int(history[-1]) % GROUPS
        inside = np.arange(group or GROUPS, N_ITEMS + 1, GROUPS)
        return order.permutation(inside)[:K].astype(np.int64)

    def calls(self, account: str, length: int, pick: Callable[[Ids, Ids], int], start: float = 1e9) -> Iterator[Call]:
        """Grow a history, a call an item."""
        history, now = np.array([self.anything()], np.int64), start
        for _ in range(length):
            listed = self.answer(history)
            yield Call(account, now, history, listed)
            history = np.append(history, pick(history, listed))
            now += float(self.rng.exponential(60))

    def anything(self) -> int:
        return int(self.rng.integers(1, N_ITEMS + 1))

    def person(self, fickle: float) -> Callable[[Ids, Ids], int]:
        """Goes on in the group, at times elsewhere; looks at the first places most."""

        def pick(history: Ids, listed: Ids) -> int:
            if self.rng.random() < fickle:
                return self.anything()
            return int(listed[min(int(self.rng.exponential(6)), len(listed) - 1)])

        return pick

    def people(self, n: int, prefix: str = "user") -> list[Call]:
        calls: list[Call] = []
        for number in range(n):
            length = int(self.rng.integers(10, 60))
            calls.extend(
                self.calls(f"{prefix}-{number}", length, self.person(0.15 + 0.25 * float(self.rng.beta(2, 2))))
            )
        return calls


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    return calibrate(World(0).people(260))


@pytest.fixture
def world() -> type[World]:
    return World
