from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from gro.service.asgi import GuardMiddleware
from gro.service.core import Role
from gro.service.guard import Guard

GOOD = b'{"histories":[[1,2,3]]}'


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    said: Any


@dataclass
class Door:
    """A guarded service over bare sockets, which send what no client library would."""

    service: Any
    guard: Guard
    url: str
    key: str

    def request(
        self,
        body: bytes = GOOD,
        *headers: bytes,
        start: bytes = b"POST /rank",
        key: bytes | None = None,
        length: bytes | None = b"true",
    ) -> bytes:
        """A request as it is sent.

        Args:
            headers: whole lines, besides those of the host, the key and the length.
            start: method and target.
            key: None: a good one; empty: none.
            length: what it says of its length; None: nothing.
        """
        shown = self.key.encode() if key is None else key
        lines = [start + b" HTTP/1.1", b"Host: service", *([b"X-API-Key: " + shown] if shown else ()), *headers]
        if length is not None:
            lines.append(b"Content-Length: " + (b"%d" % len(body) if length == b"true" else length))
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        at = urlsplit(self.url)
        with socket.create_connection((at.hostname or "", at.port or 0), 30) as peer:
            yield peer

    def ask(self, *pieces: bytes, method: str = "POST") -> Answer:
        """Send pieces and read one answer."""
        with self.connected() as peer:
            for piece in pieces:
                peer.sendall(piece)
            return self.answer(peer, method)

    def answer(self, peer: socket.socket, method: str = "POST") -> Answer:
        response = http.client.HTTPResponse(peer, method=method)
        response.begin()
        text = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, json.loads(text) if text.startswith(b"{") else text)

    def statuses(self, *pieces: bytes) -> list[int]:
        """Send pieces and give the status of every answer until the service closes the connection."""
        with self.connected() as peer:
            for piece in pieces:
                peer.sendall(piece)
            came = b"".join(iter(lambda: received(peer), b""))
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", came)]

    def good(self) -> Answer:
        return self.ask(self.request())

    def shut(self, *pieces: bytes, status: int, code: str, why: object = "") -> Answer:
        """See a request refused and noted, the service behind not asked, and the next good request answered."""
        asked = self.service.asked
        refused = self.ask(*pieces)
        assert refused.status == status, why
        assert refused.said["error"] == ("unauthorized" if status == 401 else code), why
        assert self.guard.logs.recent[-1]["event"]["code"] == code, why
        assert self.service.asked == asked, why
        assert self.good().status == 200, why
        return refused


def received(peer: socket.socket) -> bytes:
    """What came; nothing where the connection is closed, however rudely."""
    try:
        return peer.recv(65_536)
    except ConnectionResetError:
        return b""


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    def until(true: Callable[[], bool]) -> None:
        for _ in range(3000):
            if true():
                return
            time.sleep(0.01)
        pytest.fail("it never came true")

    return until


@pytest.fixture
def opened() -> Callable[[Any, Guard], contextlib.AbstractContextManager[Door]]:
    """Serve behind a guard."""

    @contextlib.contextmanager
    def opened(service: Any, guard: Guard) -> Iterator[Door]:
        app = GuardMiddleware(service.app(), guard, ("/rank",), {"/stats": Role.AUDIT})
        with service.served(app) as url:
            yield Door(service, guard, url, service.key("anna"))

    return opened


@pytest.fixture
def guard(service: Any) -> Guard:
    """One that does not hold accounts for how they ask, which here is always the same."""
    return Guard(service.settings().model_copy(update={"monitor": None}))


@pytest.fixture
def door(service: Any, guard: Guard, opened: Any) -> Iterator[Door]:
    with opened(service, guard) as door:
        yield door
