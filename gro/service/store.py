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

from gro.service.windows import CELLS, Cost, Level, Quota, StoreGoneError

CONNECTIONS = 50
"""Of a replica at most; more calls at a time wait for one, within the time-out."""


class RedisWindows(RedisStorage):
    """The Redis storage of `limits` with a script of ours.

    A strategy of `limits` charges one budget at a time and cannot take it back, and names a counter after its amount,
    so that a smaller budget for a throttled account would be a fresh one.

    Args:
        uri: ``async+redis://``, ``async+rediss://`` or ``async+redis+unix://``; Redis 5 or newer, not a cluster.
        timeout: seconds that a charge may take, connecting included.
        spans: lengths of the windows in seconds, shortest first.
    """

    def __init__(self, uri: str, timeout: float, *spans: int) -> None:
        super().__init__(uri, implementation="redispy", key_prefix="gro", max_connections=CONNECTIONS)
        self._client: Redis = cast("Any", self.bridge).get_connection()
        self._script = self._client.register_script(Path(__file__).with_name("charge.lua").read_bytes())
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._timeout = timeout
        self._spans = spans

    async def charge(self, quotas: Sequence[Quota], cost: Cost) -> tuple[str, list[Level]]:
        """Count the cost for every name if all quotas have room for it, and for none otherwise.

        Returns:
            What stays the same until the store is emptied, and how the quotas stood.

        Raises:
            StoreGoneError: no answer in time, or an error. The cost may have been counted.
        """
        names = list(dict.fromkeys(quota.name for quota in quotas))
        asked = [(names.index(quota.name) + 1, *quota[1:]) for quota in quotas]
        ask = json.dumps({"spans": self._spans, "cells": CELLS, "cost": cost, "quotas": asked})
        keys = [self.bridge.prefixed_key(name) for name in ("since", *names)]
        try:
            async with asyncio.timeout(self._timeout), self._room:
                since, *numbers = await self._script(keys, [ask])
        except TimeoutError:
            raise StoreGoneError(f"no answer within {self._timeout:g} s") from None
        except (RedisError, OSError) as error:
            raise StoreGoneError(f"{type(error).__name__}: {error}") from None
        levels = [Level(used, wait / 1000) for used, wait in zip(numbers[::2], numbers[1::2], strict=True)]
        return since.decode(), levels

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
