"""The guard as ASGI middleware: a plain class around any application, one request's body in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gro.errors import GroError
from gro.service.core import Refused, Role
from gro.service.decoys import Decoys
from gro.service.guard import Admission, Guard
from gro.service.wire import Wire, too_large

OK: Final = 200
ADMISSION: Final = "gro.admission"
"""Where ``scope["state"]`` holds the :class:`Admission` of a question."""
CALLER: Final = "gro.caller"
"""Where it holds the :class:`gro.service.guard.Caller` of any other request."""


class GuardMiddleware:
    """Lets through what the guard lets through.

    POST requests to the ranking paths are questions: they are counted, and their answers watched. Paths of
    ``settings.open`` are anybody's; every other request needs a credential with the role that ``roles`` gives its path,
    or ``rank``.

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
            roles: that requests to paths which begin so take.
        """
        self._app, self._guard, self._paths, self._roles = app, guard, frozenset(paths), dict(roles or {})
        self._wire = Wire(guard.settings.wire)
        n_items, secret = guard.settings.wire.n_items, guard.secret
        self._decoys = Decoys(secret, n_items) if n_items and secret else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a connection; one that is not HTTP is closed."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._guarded(scope, receive, send)
            except Refused as refused:
                answer = {"error": refused.code if refused.status != 401 else "unauthorized", "detail": refused.detail}
                await JSONResponse(answer, refused.status, dict(refused.headers))(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in self._guard.settings.open:
            await self._app(scope, receive, send)
            return
        role = next((role for begin, role in self._roles.items() if path.startswith(begin)), Role.RANK)
        peer = scope["client"][0] if scope.get("client") else None
        caller = self._guard.identify(scope["headers"], peer, scope["method"], path, role)
        if path not in self._paths or scope["method"] != "POST":
            scope.setdefault("state", {})[CALLER] = caller
            await self._app(scope, receive, send)
            return
        body = await _whole(receive, self._guard.settings.wire.most_bytes)
        admission = await self._guard.admit(caller, self._wire.question(body))
        scope.setdefault("state", {})[ADMISSION] = admission
        answer = _Answer(self, admission, send)
        await self._app(scope, _again(body, receive), answer.send)

    def answered(self, admission: Admission, body: bytes) -> bytes:
        """Watch an answer, and return what is sent in its place."""
        try:
            lists = self._wire.lists(body)
            if admission.decoy and self._decoys is not None:
                lists = self._decoys.lists(lists)
                body = self._wire.with_lists(body, lists)
            self._guard.answered(admission, lists)
        except (GroError, ValueError):
            raise Refused(502, "answer_unreadable", "the service gave no lists") from None
        return body


class _Answer:
    """Holds an answer back until it is whole."""

    def __init__(self, middleware: GuardMiddleware, admission: Admission, send: Send) -> None:
        self._middleware, self._admission, self._send = middleware, admission, send
        self._start: Message = {}
        self._parts: list[bytes] = []

    async def send(self, message: Message) -> None:
        """Take in a message of the application."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._parts.append(message.get("body", b""))
        if message.get("more_body"):
            return
        body = b"".join(self._parts)
        if self._start["status"] == OK:
            body = self._middleware.answered(self._admission, body)
        headers = MutableHeaders(raw=list(self._start.get("headers", ())))
        headers.update(self._admission.headers)
        headers["content-length"] = str(len(body))
        await self._send({**self._start, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})


async def _whole(receive: Receive, most: int) -> bytes:
    """Read a body.

    Raises:
        Refused: 413; it is larger than ``most`` bytes. 400; the client went away.
    """
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
