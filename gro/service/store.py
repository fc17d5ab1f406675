"""Windows that many replicas share, in Redis: one script charges every budget of a call in one step, or none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from limits.aio.storage import RedisStorage
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gro.service.link import StoreGoneError
from gro.service.windows import CELLS, Cost, Level, Quota

CONNECTIONS = 16
"""Of a replica at most, which keep one event loop busy; more calls at a time wait for one."""


class RedisWindows(RedisStorage):
    """The Redis storage of `limits` with a script of ours.

    A strategy of `limits` charges one budget at a time and cannot take it back, and names a counter after its amount,
    so that a smaller budget for a throttled account would be a fresh one.

    Args:
        uri: ``async+redis://``, ``async+rediss://`` or ``async+redis+unix://``; Redis 5 or newer, not a cluster.
        timeout: seconds that the store may take to answer, connecting included.
        spans: lengths of the windows in seconds, shortest first.
    """

    def __init__(self, uri: str, timeout: float, *spans: int) -> None:
        # With protocol 3 redis-py 8 takes a connection that a restarted server has closed for a good one.
        super().__init__(uri, implementation="redispy", key_prefix="gro", max_connections=CONNECTIONS, protocol=2)
        self._client: Redis = cast("Any", self.bridge).get_connection()
        self._script = self._client.register_script(Path(__file__).with_name("charge.lua").read_bytes())
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._failures = 0
        self._timeout = timeout
        self._spans = spans

    async def charge(self, quotas: Sequence[Quota], cost: Cost) -> tuple[str, list[Level]]:
        """See :class:`gro.service.link.Store`."""
        names = list(dict.fromkeys(quota.name for quota in quotas))
        asked = [(names.index(quota.name) + 1, *quota[1:]) for quota in quotas]
        ask = json.dumps({"spans": self._spans, "cells": CELLS, "cost": cost, "quotas": asked})
        keys = [self.bridge.prefixed_key(name) for name in ("since", *names)]
        since, *numbers = await self._answer(keys, ask)
        levels = [Level(used, wait / 1000) for used, wait in zip(numbers[::2], numbers[1::2], strict=True)]
        return str(since), levels

    async def _answer(self, keys: list[str], ask: str) -> list[Any]:
        failures = self._failures
        async with self._room:
            if failures != self._failures:
                raise StoreGoneError("it failed while a call waited for a connection")
            try:
                async with asyncio.timeout(self._timeout):
                    answer: list[Any] = await self._script(keys, [ask])
                    return answer
            except TimeoutError:
                why = f"no answer within {self._timeout:g} s"
            except (RedisError, OSError) as error:
                why = f"{type(error).__name__}: {error}"
            self._failures += 1
            raise StoreGoneError(why)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
