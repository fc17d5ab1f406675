"""The guard as ASGI middleware: a plain class around any application, one request's body in memory at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gro.errors import GroError
from gro.service.console import Console
from gro.service.core import Refused, Role
from gro.service.guard import CALLER, Admission, Caller, Guard
from gro.service.telemetry import Traced
from gro.service.wire import Question, Wire, too_large

OK: Final = 200
ADMISSION: Final = "gro.admission"
"""Where ``scope["state"]`` holds the :class:`Admission` of a question."""
MOST_OF_OPERATORS: Final = 1 << 16
"""Bytes of an operator's request."""
CLOSE: Final = {"Connection": "close"}
LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})
"""Who sends both has a proxy take the end of one request for the begin of another (RFC 9112, section 6.1)."""
PATIENCE: Final = 10.0
"""Seconds that a body may take to arrive: who sends slowly holds a connection, and a service that is to end."""


class GuardMiddleware:
    """Lets through what the guard lets through.

    POST requests to the ranking paths are questions: they are counted, and their answers watched. Paths of
    ``settings.open`` are anybody's. Requests to the paths of ``roles``, and to those below, take a credential with that
    role, those under ``settings.console`` are the guard's own, and there are no others.

    Example::

        app.add_middleware(GuardMiddleware, guard=Guard(read_guard(Path("guard.toml"))), paths=("/rank",))
    """

    def __init__(
        self, app: ASGIApp, guard: Guard, paths: tuple[str, ...], roles: Mapping[str, Role] | None = None
    ) -> None:
        """Guard ``app``.

        Args:
            app: an ASGI application.
            guard: what decides.
            paths: of the requests that ask for lists.
            roles: that requests to other paths, and to those below them, take; the first one counts.
        """
        self._app, self._guard, self._paths, self._roles = app, guard, frozenset(paths), dict(roles or {})
        self._wire = Wire(guard.settings.wire)
        self._console = Console(guard) if guard.settings.console else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a connection; one that is not HTTP is closed."""
        if scope["type"] == "lifespan":
            await self._lives(scope, receive, send)
        elif scope["type"] == "http":
            try:
                with self._guard.telemetry.request(scope["method"], scope["path"]) as traced:
                    await self._guarded(scope, receive, send, traced)
            except Refused as refused:
                await _refusal(refused)(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _lives(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open the guard before the application and close it afterwards."""

        async def begun() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._guard.open()
            return message

        async def ended(message: Message) -> None:
            if message["type"] in {"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
                await self._guard.close()
            await send(message)

        await self._app(scope, begun, ended)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, traced: Traced) -> None:
        path, guard = scope["path"], self._guard
        if {name for name, _ in scope["headers"]} >= LENGTHS:
            raise Refused(400, "length_ambiguous", "the length of the request is given in two ways", CLOSE)
        if path in guard.settings.open:
            await _pass(self._app, scope, receive, send, traced)
            return
        if self._console is not None and path in self._console.public:
            await _pass(self._console, scope, receive, send, traced)
            return
        if self._console is not None and path in self._console.roles:
            self._identify(scope, traced, self._console.roles[path])
            body = await _whole(receive, MOST_OF_OPERATORS)
            await _pass(self._console, scope, _again(body, receive), send, traced)
        elif path not in self._paths:
            role = next((role for begin, role in self._roles.items() if _within(path, begin)), None)
            caller = self._identify(scope, traced, role)
            if role is None:
                guard.deny(caller, Refused(404, "path_unknown", "there is nothing at this path"))
            await _pass(self._app, scope, receive, send, traced)
        else:
            await self._asked(scope, receive, send, traced)

    async def _asked(self, scope: Scope, receive: Receive, send: Send, traced: Traced) -> None:
        """Have a question answered."""
        caller = self._identify(scope, traced, Role.RANK)
        try:
            body, question = await self._question(scope, receive)
        except Refused as refused:
            self._guard.deny(caller, refused)
        admission = await self._guard.admit(caller, question)
        scope["state"][ADMISSION] = admission
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        answer = _Answer(self._guard, self._wire, admission, send, traced)
        with traced.ranking():
            await self._app({**scope, "headers": plain}, _again(body, receive), answer.send)
        if answer.refused is not None:
            raise answer.refused

    async def _question(self, scope: Scope, receive: Receive) -> tuple[bytes, Question]:
        """The body of a request, and what it asks.

        Raises:
            Refused: it is no question.
        """
        if scope["method"] != "POST":
            raise Refused(405, "method_unknown", "questions are sent by POST", {"Allow": "POST"})
        body = await _whole(receive, self._guard.settings.wire.most_bytes)
        return body, self._wire.question(body)

    def _identify(self, scope: Scope, traced: Traced, role: Role | None) -> Caller:
        peer = scope["client"][0] if scope.get("client") else None
        asked = scope["headers"], peer, scope["method"], scope["path"]
        caller = self._guard.identify(*asked, role, traced.trace_id)
        scope.setdefault("state", {})[CALLER] = caller
        return caller


class _Answer:
    """Holds an answer back until it is whole, and sends what the guard makes of it.

    Attributes:
        refused: why nothing was sent.
    """

    def __init__(self, guard: Guard, wire: Wire, admission: Admission, send: Send, traced: Traced) -> None:
        self._guard, self._wire, self._admission = guard, wire, admission
        self._send, self._traced = send, traced
        self._start: Message = {}
        self._parts: list[bytes] = []
        self.refused: Refused | None = None

    async def send(self, message: Message) -> None:
        """Take in a message of the application."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body") or self.refused is not None:
            return
        with self._traced.guarding():
            try:
                body = await self._body(b"".join(self._parts))
            except Refused as refused:
                self.refused = refused
                return
            headers = MutableHeaders(raw=list(self._start.get("headers", ())))
            headers.update(self._admission.headers)
            headers["content-length"] = str(len(body))
        await self._send({**self._start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})

    async def _body(self, body: bytes) -> bytes:
        """What is sent in the place of a body."""
        status = self._start["status"]
        if status != OK:
            self._traced.answered(status)
            return body
        try:
            lists = self._wire.lists(body)
            sent = await self._guard.answered(self._admission, lists)
        except (GroError, ValueError) as error:
            raise _unanswered(error) from None
        self._traced.answered(status, len(sent), sum(map(len, sent)))
        return body if sent is lists else self._wire.with_lists(body, sent)


async def _pass(app: ASGIApp, scope: Scope, receive: Receive, send: Send, traced: Traced) -> None:
    """Have a request answered that is no question."""

    async def noted(message: Message) -> None:
        if message["type"] == "http.response.start":
            traced.answered(message["status"])
        await send(message)

    with traced.ranking():
        await app(scope, receive, noted)


def _within(path: str, begin: str) -> bool:
    """Whether a path is another one or below it; one with dots in it is an application's to read as it likes."""
    return ".." not in path.split("/") and (path == begin or path.startswith(f"{begin.rstrip('/')}/"))


def _refusal(refused: Refused) -> JSONResponse:
    answer = {"error": refused.code if refused.status != 401 else "unauthorized", "detail": refused.detail}
    return JSONResponse(answer, refused.status, dict(refused.headers))


def _unanswered(error: Exception) -> Refused:
    return error if isinstance(error, Refused) else Refused(502, "answer_unreadable", "the service gave no lists")


async def _whole(receive: Receive, most: int) -> bytes:
    """Read a body.

    Raises:
        Refused: 413; it is larger than ``most`` bytes. 408; it takes too long. 400; the client went away.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            return await _read(receive, most)
    except TimeoutError:
        raise Refused(408, "body_too_slow", f"the body takes more than {PATIENCE:g} seconds", CLOSE) from None


async def _read(receive: Receive, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "client_gone", "the request ended early")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise too_large(most)
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once more, then what comes."""
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
