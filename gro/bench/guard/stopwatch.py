"""What middleware costs: the time that a request spends in it, and nowhere else.

:class:`Around` stands before the middleware and :class:`Within` behind it. The watch stands still while the middleware
waits for the server to receive or to send, and while the application that it guards works.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

TIMES: Final = "/times"
"""Where the seconds of each request are told that came since they were asked for last, as C doubles."""
WATCH: Final = "gro.bench.watch"
Given = ParamSpec("Given")
Found = TypeVar("Found")


class Watch:
    """Runs for one request."""

    def __init__(self) -> None:
        self.seconds, self._since = 0.0, time.perf_counter()

    def start(self) -> None:
        """The middleware goes on."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """The server or the application does."""
        self.seconds += time.perf_counter() - self._since

    def without(self, call: Callable[Given, Awaitable[Found]]) -> Callable[Given, Awaitable[Found]]:
        """What the middleware calls."""

        async def stopped(*args: Given.args, **kwargs: Given.kwargs) -> Found:
            self.stop()
            try:
                return await call(*args, **kwargs)
            finally:
                self.start()

        return stopped

    def within(self, call: Callable[Given, Awaitable[Found]]) -> Callable[Given, Awaitable[Found]]:
        """What the middleware is called by."""

        async def started(*args: Given.args, **kwargs: Given.kwargs) -> Found:
            self.start()
            try:
                return await call(*args, **kwargs)
            finally:
                self.stop()

        return started


class Around:
    """Starts the watch, and tells the times."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._times = app, array("d")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Time a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == TIMES:
            times, self._times = self._times, array("d")
            await Response(times.tobytes())(scope, receive, send)
        else:
            watch = scope[WATCH] = Watch()
            try:
                await self._app(scope, watch.without(receive), watch.without(send))
            finally:
                watch.stop()
                self._times.append(watch.seconds)


class Within:
    """Stops it for the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave a request's time in the application out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch: Watch = scope[WATCH]
        await watch.without(self._app)(scope, watch.within(receive), watch.within(send))
