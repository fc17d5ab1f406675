"""Questions of many callers, answered by the model together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from gro.service.core import Refused

History: TypeAlias = Sequence[int]
Lists: TypeAlias = list[list[int]]
Answer: TypeAlias = Callable[[Sequence[History]], Lists]
"""Histories in, a list for each out; is called by one thread at a time."""
WAITING: Final = 64
"""Batches that may wait for the model; what comes on top is refused at once rather than late."""


class Batcher:
    """Gathers histories until the model is free, and answers as many together as it takes.

    The model is never idle while somebody waits, so gathering costs no time: a batch is what came while the one before
    it was answered.
    """

    def __init__(self, answer: Answer, most: int = 256) -> None:
        """Answer up to ``most`` histories together."""
        self._answer, self._most = answer, most
        self._waiting: list[tuple[Sequence[History], asyncio.Future[Lists]]] = []
        self._held, self._closed = 0, False
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gro-model")

    async def ask(self, histories: Sequence[History]) -> Lists:
        """Answer histories, in their order.

        Raises:
            Refused: 503; so many wait that an answer would come too late, or :meth:`close` was called.
        """
        if self._closed:
            raise Refused(503, "draining", "the service is shutting down; try again in a moment", {"Retry-After": "1"})
        if self._held and self._held + len(histories) > WAITING * self._most:
            raise Refused(503, "busy", "the service is busy; try again in a moment", {"Retry-After": "1"})
        future: asyncio.Future[Lists] = asyncio.get_running_loop().create_future()
        self._waiting.append((histories, future))
        self._held += len(histories)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        try:
            return await future
        finally:
            self._held -= len(histories)

    async def close(self) -> None:
        """Answer what waits and nothing more, then let the thread go."""
        self._closed = True
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while taken := self._take():
            histories = [history for asked, _ in taken for history in asked]
            try:
                lists = await loop.run_in_executor(self._thread, self._answer, histories)
            except Exception as error:  # noqa: BLE001 -- it is each caller's, not the worker's
                _settle(taken, error)
                continue
            _settle(taken, lists)

    def _take(self) -> list[tuple[Sequence[History], asyncio.Future[Lists]]]:
        """The next batch; whose caller has gone is left out."""
        self._waiting = [(histories, future) for histories, future in self._waiting if not future.done()]
        size, end = 0, 0
        for histories, _ in self._waiting:
            if end and size + len(histories) > self._most:
                break
            size, end = size + len(histories), end + 1
        taken, self._waiting = self._waiting[:end], self._waiting[end:]
        return taken


def _settle(taken: list[tuple[Sequence[History], asyncio.Future[Lists]]], result: Lists | Exception) -> None:
    start = 0
    for histories, future in taken:
        if not future.done():  # its caller may have gone
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result[start : start + len(histories)])
        start += len(histories)
