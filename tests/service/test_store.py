"""Windows in a real Redis: short ones, so that time passes in them; clocks, names and errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from redis import Redis

from gro.service.link import StoreGoneError
from gro.service.store import RedisWindows
from gro.service.windows import CALLS, ENTRIES, Level, Quota, fits

T = TypeVar("T")
SPAN = 1
BUDGET = [Quota("account/a", SPAN, CALLS, 10)]


def run(redis_server: Any, what: Callable[[RedisWindows], Coroutine[Any, Any, T]]) -> T:
    async def opened() -> T:
        store = RedisWindows(f"async+{redis_server.uri}", 5.0, SPAN)
        try:
            return await what(store)
        finally:
            await store.close()

    return asyncio.run(opened())


def test_no_window_ever_holds_more_than_its_budget(redis_server: Any) -> None:
    passed: list[tuple[float, float]] = []

    async def client(store: RedisWindows) -> None:
        end = time.monotonic() + 3
        while (asked := time.monotonic()) < end:
            _, levels = await store.charge(BUDGET, (1, 0))
            if fits(BUDGET, levels, (1, 0)):
                passed.append((asked, time.monotonic()))
            await asyncio.sleep(0.02)

    async def clients(store: RedisWindows) -> None:
        await asyncio.gather(*(client(store) for _ in range(4)))

    run(redis_server, clients)
    passed.sort()
    assert len(passed) >= 20, "what has left the window is given back"
    assert all(later[1] - first[0] >= SPAN for first, later in zip(passed, passed[10:], strict=False))


def test_idle_names_are_forgotten(redis_server: Any) -> None:
    async def charge(store: RedisWindows) -> None:
        for at in range(20):
            await store.charge([Quota(f"account/{at}", SPAN, CALLS, 10)], (1, 0))

    run(redis_server, charge)
    with Redis.from_url(redis_server.uri) as client:
        assert client.dbsize() == 21
        time.sleep(SPAN + 0.5)
        assert client.keys() == [b"gro:since"]


def test_names_are_taken_as_they_are(redis_server: Any) -> None:
    names = [
        "account/a",
        "account/a ",
        "account/a\n",
        "account/{a}",
        'account/"',
        "account/ö\udc80".encode("utf-8", "replace").decode(),
    ]

    async def charge(store: RedisWindows) -> list[int]:
        for name in names:
            await store.charge([Quota(name, SPAN, CALLS, 10)], (2, 0))
        return [(await store.charge([Quota(name, SPAN, CALLS, 1)], (1, 0)))[1][0].used for name in names]

    assert run(redis_server, charge) == [2] * len(names)


def test_what_a_clock_left_in_the_future_counts_as_of_now(redis_server: Any) -> None:
    with Redis.from_url(redis_server.uri) as client:
        future = "redis.call('SET', KEYS[1], cmsgpack.pack({{redis.call('TIME')[1] + 1e6, 7, 70}}))"
        client.eval(future, 1, "gro:account/a")

    async def charge(store: RedisWindows) -> list[Level]:
        quotas = [*BUDGET, Quota("account/a", SPAN, ENTRIES, 100)]
        return [*(await store.charge(quotas, (4, 0)))[1], *(await store.charge(quotas, (3, 30)))[1]]

    levels = run(redis_server, charge)
    assert [level.used for level in levels] == [7, 70, 7, 70]
    assert all(0 < level.wait <= SPAN for level in levels)
    time.sleep(SPAN + 0.1)
    assert run(redis_server, lambda store: store.charge(BUDGET, (1, 0)))[1][0].used == 0


def test_more_calls_than_connections_wait_for_one(redis_server: Any) -> None:
    async def many(store: RedisWindows) -> list[Any]:
        quota = [Quota("account/a", SPAN, CALLS, 10**6)]
        return await asyncio.gather(*(store.charge(quota, (1, 0)) for _ in range(400)))

    assert len(run(redis_server, many)) == 400


@pytest.mark.parametrize("password", ["", "hunter2"])
def test_an_error_of_the_store_is_named_without_secrets(redis_server: Any, password: str) -> None:
    with Redis.from_url(redis_server.uri) as client:
        client.config_set("requirepass", "open sesame")
        uri = redis_server.uri.replace("//", f"//:{password}@") if password else redis_server.uri

        async def charge() -> None:
            store = RedisWindows(f"async+{uri}", 5.0, SPAN)
            try:
                await store.charge(BUDGET, (1, 0))
            finally:
                await store.close()

        with pytest.raises(StoreGoneError, match=r"Authentication") as error:
            asyncio.run(charge())
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)
