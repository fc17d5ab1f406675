"""Tokens that count once: a bounded memory of those that were used.

What cannot be told from a replay is refused: a token from before the memory began, one that the memory may have
forgotten because the clock was ahead of now, and any new one while the memory is full.
"""

from __future__ import annotations

import math
from hashlib import sha256
from heapq import heappop, heappush

from gro.service.access.refusals import invalid
from gro.service.core import Refused


class OneTime:
    """The names of used tokens, each kept until the token has expired; about 250 bytes a token.

    It is one process's: several workers that share an address let a token through once each.

    Args:
        room: tokens that are remembered at most.
        begun: Unix seconds; tokens issued before may have been used elsewhere.
    """

    def __init__(self, room: int, begun: float) -> None:
        self._room, self._begun = room, begun
        self._used: set[bytes] = set()
        self._queue: list[tuple[float, bytes]] = []  # by when they expire, a heap
        self._forgotten = -math.inf

    def __len__(self) -> int:
        return len(self._used)

    def use(self, name: str, issued: float, until: float, now: float) -> None:
        """Use up a token that is good until ``until``.

        Raises:
            Refused: 401; it was used, or may have been. 503; there is no room to remember it.
        """
        self._forget(now)
        mark = sha256(name.encode()).digest()
        if mark in self._used:
            raise invalid("token_replayed")
        if issued < self._begun or until <= self._forgotten:
            raise invalid("token_replay_unknown")
        if len(self._used) >= self._room:
            wait = max(1, math.ceil(self._queue[0][0] - now))
            raise Refused(503, "token_memory_full", "try again later", {"Retry-After": str(wait)})
        self._used.add(mark)
        heappush(self._queue, (until, mark))

    def _forget(self, now: float) -> None:
        self._forgotten = max(self._forgotten, now)
        while self._queue and self._queue[0][0] <= now:
            self._used.remove(heappop(self._queue)[1])
