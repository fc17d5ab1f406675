from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from gro.service.access.keys import KeySettings, KeyStore, start_key_file
from gro.service.asgi import GuardMiddleware
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.monitor.calibration import Calibration, calibrate
from gro.service.monitor.files import write
from gro.service.settings import GuardSettings, read_guard

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


@pytest.fixture(scope="session")
def world() -> type[World]:
    return World


SECRET = "0123456789abcdef" * 4
CONFIG = """
[keys]
path = "{folder}/keys.json"

[limits]
policy = "{folder}/policy.toml"

[wire]
n_items = 300
most_k = 30
most_histories = 4

[monitor]
calibration = "{folder}/calibration.safetensors"
answers = 4096

[responses]
playbook = "{folder}/playbook.toml"

[sessions]

[privacy]
key_file = "{folder}/secret"

[events]
to = "{folder}/events.jsonl"

[audit]
path = "{folder}/audit.jsonl"
key_file = "{folder}/secret"
"""
PLAYBOOK = """
[[rule]]
name = "alarm"
when = { alarm = true }
then = "decoy"
for = "1h"

[[rule]]
name = "long alarm"
when = { score = 1.0, for_calls = 15 }
then = "suspend"
for = "1h"
"""
POLICY = "[limits]\ncalls_per_day = 500\n"


class Service:
    """A guarded service, and what goes on in it."""

    def __init__(self, folder: Path, calibration: Calibration, world: World) -> None:
        self.folder, self.world = folder, world
        for name, content in (("playbook.toml", PLAYBOOK), ("policy.toml", POLICY), ("guard.toml", CONFIG)):
            (folder / name).write_text(content.replace("{folder}", str(folder)))
        (folder / "secret").write_text(SECRET)
        (folder / "secret").chmod(0o600)
        write(folder / "calibration.safetensors", calibration)
        start_key_file(folder / "keys.json")
        self._keys = KeyStore(KeySettings(path=folder / "keys.json"))
        self.asked = 0

    def settings(self) -> GuardSettings:
        return read_guard(self.folder / "guard.toml")

    def key(self, account: str, *roles: Role) -> str:
        return self._keys.create(account, roles or (Role.RANK,), 3600.0, time.time())[1]

    def app(self) -> Starlette:
        """The team's own service, which knows nothing of a guard."""

        async def rank(request: Request) -> JSONResponse:
            body = await request.json()
            self.asked += 1
            lists = [self.world.answer(np.array(history)).tolist() for history in body["histories"]]
            return JSONResponse({"lists": lists, "model": "m"})

        async def whoever(request: Request) -> PlainTextResponse:
            return PlainTextResponse("well")

        routes = [Route("/rank", rank, methods=["POST"]), Route("/health", whoever), Route("/stats", whoever)]
        return Starlette(routes=routes)

    @contextlib.contextmanager
    def served(self, app: Any) -> Iterator[str]:
        """A real server on a free loopback port."""
        listening = socket.socket(proto=socket.IPPROTO_TCP)  # which asyncio takes as leave not to gather small packets
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]

    def events(self, action: str) -> list[dict[str, Any]]:
        return [event for event in self.logged() if event["event"]["action"] == action]

    def refusals(self) -> list[dict[str, Any]]:
        return [event for event in self.logged() if "code" in event["event"]]


@pytest.fixture
def service(tmp_path: Path, calibration: Calibration, world: type[World]) -> Service:
    return Service(tmp_path, calibration, world(30))


@pytest.fixture
def guard(service: Service) -> Guard:
    return Guard(service.settings())


@pytest.fixture
def client(service: Service, guard: Guard) -> Iterator[httpx.Client]:
    app = GuardMiddleware(service.app(), guard, ("/rank",), {"/stats": Role.AUDIT})
    with service.served(app) as url, httpx.Client(base_url=url) as client:
        yield client
