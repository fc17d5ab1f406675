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
        self._held = 0
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gro-model")

    async def ask(self, histories: Sequence[History]) -> Lists:
        """Answer histories, in their order.

        Raises:
            Refused: 503; so many wait that an answer would come too late.
        """
        if self._held and self._held + len(histories) > WAITING * self._most:
            raise Refused(503, "busy", "the service is busy; try again in a moment", {"Retry-After": "1"})
        future: asyncio.Future[Lists] = asyncio.get_running_loop().create_future()
        self._waiting.append((histories, future))
        self._held += len(histories)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def close(self) -> None:
        """Answer what waits, then let the thread go."""
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = self._take()
            histories = [history for asked, _ in taken for history in asked]
            try:
                lists = await loop.run_in_executor(self._thread, self._answer, histories)
            except Exception as error:  # noqa: BLE001 -- it is each caller's, not the worker's
                _settle(taken, error)
                continue
            finally:
                self._held -= len(histories)
            _settle(taken, lists)

    def _take(self) -> list[tuple[Sequence[History], asyncio.Future[Lists]]]:
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
