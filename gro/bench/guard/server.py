"""The ranking service that is measured: plain, behind slowapi or behind the guard, a process each."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final, Literal

import uvicorn
from slowapi import Limiter
from slowapi.middleware import SlowAPIASGIMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gro.bench.guard.client import HOST, PATH
from gro.bench.guard.stopwatch import Around, Within
from gro.bench.guard.world import PLENTY, Catalogue
from gro.service.asgi import GuardMiddleware
from gro.service.guard import Guard
from gro.service.settings import GuardSettings

Side = Literal["plain", "slowapi", "guard"]
SIDES: Final[tuple[Side, ...]] = ("plain", "slowapi", "guard")
PATIENCE: Final = 60
"""Seconds that an idle connection is kept, and that a server may take to start or to end."""


@dataclass(frozen=True)
class Served:
    """A service that runs.

    Attributes:
        told: where it tells, when it has ended, how many requests it took and how many of them it answered.
    """

    port: int
    process: SpawnProcess
    told: Connection


@contextmanager
def served(side: Side, settings: GuardSettings, *, timed: bool = True, delay: float = 0.0) -> Iterator[Served]:
    """Serve on a free port of this machine's own.

    Args:
        side: what stands before the service.
        settings: of the guard.
        timed: whether the stopwatch runs.
        delay: seconds that the service takes to answer, as a model in another thread would.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, side, settings, timed, delay), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Served(ours.recv(), process, ours)
    finally:
        process.terminate()
        process.join(PATIENCE)


def _serve(told: Connection, side: Side, settings: GuardSettings, timed: bool, delay: float) -> None:
    listening = socket.socket(proto=socket.IPPROTO_TCP)  # said outright, or asyncio leaves Nagle's algorithm on
    listening.bind((HOST, 0))
    listening.listen()
    ledger = _Ledger(_service(side, settings, timed, delay), told)
    told.send(listening.getsockname()[1])
    config = uvicorn.Config(ledger, lifespan="on", log_level="warning", timeout_keep_alive=PATIENCE)
    uvicorn.Server(config).run(sockets=[listening])


def _service(side: Side, settings: GuardSettings, timed: bool, delay: float) -> ASGIApp:
    """A small service of canned lists, and what stands before it."""
    bodies = [json.dumps({"lists": [listed]}).encode("ascii") for listed in Catalogue().lists]

    async def rank(request: Request) -> Response:
        history = (await request.json())["histories"][0]
        if delay:
            await asyncio.sleep(delay)
        return Response(bodies[history[-1]], media_type="application/json")

    around, within = ([Middleware(Around)], [Middleware(Within)]) if timed else ([], [])
    before: dict[Side, Callable[[], list[Middleware]]] = {
        "plain": list,
        "slowapi": lambda: [Middleware(SlowAPIASGIMiddleware)],
        "guard": lambda: [Middleware(GuardMiddleware, guard=Guard(settings), paths=(PATH,))],
    }
    app = Starlette(routes=[Route(PATH, rank, methods=["POST"])], middleware=[*around, *before[side](), *within])
    limits: list[str | Callable[..., str]] = [f"{PLENTY}/day", f"{PLENTY}/minute"]
    app.state.limiter = Limiter(_key, default_limits=limits)
    return app


def _key(request: Request) -> str:
    return request.headers["x-api-key"]


class _Ledger:
    """Counts the requests that the service took and those whose answer it sent whole."""

    def __init__(self, app: ASGIApp, told: Connection) -> None:
        self._app, self._told = app, told
        self._taken = self._answered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._taken += scope["type"] == "http"

        async def counted(message: Message) -> None:
            await send(message)
            self._answered += message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "lifespan.shutdown.complete":
                self._told.send((self._taken, self._answered))

        await self._app(scope, receive, counted)
