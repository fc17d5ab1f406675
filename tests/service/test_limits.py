"""Budgets: what passes in memory and in a real Redis, to the last token; what is said; a store that is gone."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.policy import read_policy
from gro.service.core import Principal, Refused, Role
from gro.service.limits import GONE, Decision, Limiter, LimitSettings
from gro.service.link import StoreChange

DAY = 86_400


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def caller(account: str = "alice", key: str = "key-1") -> Principal:
    return Principal(account, frozenset({Role.RANK}), key)


@pytest.fixture
def policy(tmp_path: Path) -> Any:
    """Write the limits of a policy and return its path."""

    def write(**limits: int) -> str:
        path = tmp_path / "limits.toml"
        path.write_text("[limits]\n" + "".join(f"{name} = {amount}\n" for name, amount in limits.items()))
        return str(path)

    return write


def settings(policy: str, **values: Any) -> LimitSettings:
    return LimitSettings.make({"policy": policy, **values})


async def ask(limiter: Limiter, calls: int = 1, entries: int = 0, **more: Any) -> Decision:
    who = caller(more.pop("account", "alice"), more.pop("key", "key-1"))
    return await limiter.charge(who, more.pop("network", "192.0.2.0/24"), calls, entries, **more)


def run(limiter: Limiter, *asked: dict[str, Any]) -> list[Decision]:
    async def each() -> list[Decision]:
        return [await ask(limiter, **one) for one in asked]

    return asyncio.run(each())


@pytest.mark.parametrize("name", ["strict", "lenient"])
def test_a_shipped_policy_is_what_one_account_gets(name: str) -> None:
    clock, limits = Clock(), read_policy(name).limits
    limiter, passed = Limiter(settings(name), clock), 0

    async def a_day() -> None:
        nonlocal passed
        for _ in range(24 * 60):
            for _ in range(4):
                batch = math.gcd(limits.calls_per_minute or 1, limits.calls_per_day)
                passed += batch * (await ask(limiter, batch, batch * 10)).allowed
            clock.now += 60

    asyncio.run(a_day())
    assert passed == limits.daily_calls(k=10)


def test_the_last_token_is_taken_once_in_memory(policy: Any) -> None:
    limiter = Limiter(settings(policy(calls_per_day=100)), Clock())

    async def race() -> list[Decision]:
        return await asyncio.gather(*(ask(limiter) for _ in range(500)))

    decisions = asyncio.run(race())
    assert sum(decision.allowed for decision in decisions) == 100
    assert {decision.bound for decision in decisions} == {"account_calls_per_day"}
    assert [decision.remaining for decision in decisions if decision.allowed] == list(range(99, -1, -1))


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 90), st.sampled_from("ab"), st.sampled_from("xy"))),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_a_batch_passes_every_budget_or_is_charged_to_none(
    batches: list[tuple[int, int, str, str]], per_key: int, per_network: int, overall: int
) -> None:
    budgets = {
        "per_key": {"calls_per_day": per_key},
        "per_network": {"calls_per_day": per_network},
        "overall": {"list_entries_per_day": overall * 10},
    }
    limiter = Limiter(settings("strict", **budgets), Clock())
    used: dict[str, int] = dict.fromkeys("abxy", 0)
    entries_used = 0
    asked = [{"calls": n, "entries": e, "key": key, "network": network} for n, e, key, network in batches]
    for (calls, entries, key, network), decision in zip(batches, run(limiter, *asked), strict=True):
        fits = used[key] + calls <= per_key and used[network] + calls <= per_network
        fits = fits and entries_used + entries <= overall * 10 and used["a"] + used["b"] + calls <= 10
        assert decision.allowed is fits
        if fits:
            used[key] += calls
            used[network] += calls
            entries_used += entries


def test_budgets_come_back_when_their_window_has_passed(policy: Any) -> None:
    clock = Clock()
    limiter = Limiter(settings(policy(calls_per_day=3, calls_per_minute=2)), clock)
    first = run(limiter, {"calls": 2}, {})
    assert [decision.bound for decision in first] == ["account_calls_per_minute", "account_calls_per_minute"]
    assert first[1].reset == 60
    clock.now += 60
    assert run(limiter, {})[0].allowed
    clock.now += 60
    [refused] = run(limiter, {})
    assert (refused.allowed, refused.bound, refused.reset) == (False, "account_calls_per_day", DAY - 120)
    clock.now += DAY - 120
    assert [decision.allowed for decision in run(limiter, {"calls": 2}, {})] == [True, False]


def test_a_clock_that_goes_back_hands_out_nothing(policy: Any) -> None:
    clock = Clock()
    clock.now = 10 * DAY
    limiter = Limiter(settings(policy(calls_per_day=5)), clock)
    assert run(limiter, {"calls": 5})[0].allowed
    for back in (1, 3_600, DAY, 5 * DAY):
        clock.now -= back
        assert not run(limiter, {})[0].allowed
    clock.now += DAY + 1
    assert run(limiter, {"calls": 5})[0].allowed


def test_a_throttle_shrinks_what_is_the_accounts_own(policy: Any) -> None:
    chosen = settings(policy(calls_per_day=100), per_network={"calls_per_day": 60})
    limiter = Limiter(chosen, Clock())
    whole, refused, other = run(limiter, {"calls": 10, "factor": 0.1}, {"factor": 0.1}, {"account": "bob", "calls": 50})
    assert (whole.allowed, whole.bound, whole.remaining) == (True, "account_calls_per_day", 0)
    assert (refused.allowed, refused.bound) == (False, "account_calls_per_day")
    assert other.allowed
    again, elsewhere, over = run(limiter, {}, {"network": "b", "calls": 60}, {"network": "c", "calls": 31})
    assert (again.allowed, again.bound) == (False, "network_calls_per_day")
    assert elsewhere.allowed
    assert not over.allowed, "the throttle gave no second budget"


@pytest.mark.parametrize(("calls", "entries", "factor"), [(0, 0, 1), (-5, 0, 1), (1, -1, 1), (1, 0, 0), (1, 0, 1.1)])
def test_nothing_is_charged_backwards(calls: int, entries: int, factor: float) -> None:
    with pytest.raises(ValueError, match="they must be"):
        run(Limiter(settings("strict")), {"calls": calls, "entries": entries, "factor": factor})


def test_headers_tell_the_callers_own_budgets(policy: Any) -> None:
    chosen = settings(
        policy(calls_per_day=200, calls_per_minute=10, list_entries_per_day=10_000),
        per_key={"calls_per_minute": 50},
        overall={"calls_per_day": 10**6},
    )
    clock = Clock()
    limiter = Limiter(chosen, clock)
    policies = (
        '"key_calls_per_minute";q=50;w=60, "account_calls_per_minute";q=10;w=60, '
        '"account_calls_per_day";q=200;w=86400, "account_list_entries_per_day";q=100;w=86400'
    )
    [decision] = run(limiter, {"calls": 2, "entries": 200})
    assert decision.headers() == {
        "RateLimit-Policy": policies,
        "RateLimit": '"key_calls_per_minute";r=48;t=60, "account_calls_per_minute";r=8;t=60, '
        '"account_calls_per_day";r=198;t=86400, "account_list_entries_per_day";r=98;t=86400',
    }
    clock.now += 0.5
    [refused] = run(limiter, {"calls": 9, "entries": 900})
    assert refused.headers() == {
        "RateLimit-Policy": policies,
        "RateLimit": '"account_calls_per_minute";r=8;t=60',
        "Retry-After": "60",
    }


def test_a_refusal_names_the_budget_for_logs(policy: Any) -> None:
    limiter = Limiter(settings(policy(calls_per_day=5), overall={"calls_per_minute": 3}), Clock())
    over, never = run(limiter, {"calls": 4}, {"calls": 6})
    refusal = over.refusal()
    assert isinstance(refusal, Refused)
    assert (refusal.status, refusal.code) == (429, "global_calls_per_minute")
    assert never.refusal().code in {"global_calls_per_minute", "account_calls_per_day"}
    for decision in (over, never):
        assert decision.reset is None
        assert "Retry-After" not in decision.headers()
        assert "global" not in str(decision.headers())
    run(limiter, {"calls": 3})
    again = run(limiter, {})[0].refusal()
    assert (again.code, again.headers["Retry-After"]) == ("global_calls_per_minute", "60")
    assert "global" not in again.detail


def test_idle_accounts_are_forgotten() -> None:
    clock = Clock()
    limiter = Limiter(settings("strict"), clock)
    run(limiter, *({"account": f"account-{at}"} for at in range(300)))
    assert len(limiter) == 300
    clock.now += DAY
    run(limiter, *({"account": f"other-{at}"} for at in range(10)))
    assert len(limiter) == 10


def test_refused_calls_are_not_remembered(policy: Any) -> None:
    limiter = Limiter(settings(policy(calls_per_day=1)), Clock())
    run(limiter, *({"account": f"account-{at}", "calls": 2} for at in range(50)))
    assert len(limiter) == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"store": "redis://localhost"}, "'store' begins with 'redis'; it must be async+memory:// or begin with"),
        ({"store": "async+redis+cluster://u:hunter2@h"}, "'store' begins with 'async+redis+cluster'"),
        ({"policy": "strickt"}, "no policy 'strickt'. Did you mean 'strict'?"),
    ],
)
def test_unusable_settings_are_one_line(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Limiter(LimitSettings.make(values))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "values", [{"when_store_is_gone": "allow"}, {"degraded_share": 0}, {"degraded_share": 1.5}, {"store_timeout": 0}]
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LimitSettings.make(values)


def test_a_password_of_the_store_is_not_shown() -> None:
    chosen = LimitSettings.make({"store": "async+redis://user:hunter2@localhost:1"})
    assert "hunter2" not in repr(chosen)
    assert "hunter2" not in str(chosen.model_dump())


# With a real Redis. Its time-out is long where time is not what is tested: the machine may be busy.


def shared(uri: str, policy: str, **values: Any) -> LimitSettings:
    return settings(policy, **{"store": f"async+{uri}", "store_timeout": 5.0, **values})


def test_redis_and_memory_decide_alike(redis_server: Any, policy: Any) -> None:
    limits = policy(calls_per_day=12, calls_per_minute=9, list_entries_per_day=70)
    more = {"per_network": {"calls_per_day": 8}}
    asked = [(2, 20), (5, 10), (2, 0), (1, 10), (20, 0), (1, 1), (1, 1)]

    async def decide(limiter: Limiter) -> list[Any]:
        told = []
        for at, (calls, entries) in enumerate(asked):
            decision = await ask(limiter, calls, entries, network=f"{at // 3}")
            resets = [round(standing.reset or 0, -1) for standing in decision.standings]
            told.append((decision.allowed, decision.remaining, decision.headers().keys(), resets))
        await limiter.close()
        return told

    in_redis = asyncio.run(decide(Limiter(shared(redis_server.uri, limits, **more))))
    assert in_redis == asyncio.run(decide(Limiter(settings(limits, **more))))
    assert {told[0] for told in in_redis} == {True, False}


PROCESS = """
import asyncio, sys
from gro.service.core import Principal
from gro.service.limits import Limiter, LimitSettings
async def main():
    limiter = Limiter(LimitSettings.make({"policy": sys.argv[1], "store": sys.argv[2], "store_timeout": 20.0}))
    alice = Principal("alice", frozenset(), "key")
    for _ in range(5):
        decisions = await asyncio.gather(*(limiter.charge(alice, "net", 1, 10) for _ in range(100)))
        print(sum(decision.allowed for decision in decisions))
    await limiter.close()
asyncio.run(main())
"""


def test_the_last_token_is_taken_once_by_many_processes(redis_server: Any, policy: Any) -> None:
    command = [sys.executable, "-c", PROCESS, policy(calls_per_day=700), f"async+{redis_server.uri}"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    passed = [sum(map(int, process.communicate()[0].split())) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(passed) == 700


def test_a_refused_batch_is_charged_to_no_budget_in_redis(redis_server: Any, policy: Any) -> None:
    chosen = shared(redis_server.uri, policy(calls_per_day=1_000), per_network={"calls_per_day": 10})

    async def race() -> int:
        replicas = [Limiter(chosen) for _ in range(4)]
        await asyncio.gather(*(ask(replicas[at % 4], 4, 40) for at in range(40)))  # the network takes two of them
        [rest] = [await ask(replicas[0], 1, network="other")]
        await asyncio.gather(*(limiter.close() for limiter in replicas))
        return rest.standings[0].remaining

    assert asyncio.run(race()) == 1_000 - 8 - 1


Decide = Callable[..., Decision]


def test_what_another_replica_used_up_is_charged_to_no_budget_here(redis_server: Any, policy: Any) -> None:
    chosen = shared(redis_server.uri, policy(calls_per_day=5), per_network={"calls_per_day": 100})

    async def ask_both() -> list[Decision]:
        here, there = Limiter(chosen), Limiter(chosen)
        await ask(there, 5)
        decisions = [await ask(here, 3), await ask(here, 1, account="bob")]
        await asyncio.gather(here.close(), there.close())
        return decisions

    refused, other = asyncio.run(ask_both())
    assert (refused.allowed, refused.bound, refused.degraded) == (False, "account_calls_per_day", False)
    assert [standing.remaining for standing in other.standings] == [4, 94]


@contextmanager
def replica(redis_server: Any, limits: str, changes: list[StoreChange], **values: Any) -> Iterator[Decide]:
    """A limiter and a loop to ask it in."""
    with asyncio.Runner() as loop:
        limiter = Limiter(shared(redis_server.uri, limits, store_pause=0.1, **values), told=changes.append)

        def decide(**asked: Any) -> Decision:
            return loop.run(ask(limiter, **asked))

        yield decide
        loop.run(limiter.close())


def back(decide: Decide) -> Decision:
    """The first decision that the store took part in again."""
    for _ in range(100):
        time.sleep(0.05)
        if not (decision := decide()).degraded:
            return decision
    return pytest.fail("the store is not back after 5 seconds")


def test_a_store_that_is_killed_denies_and_is_back_when_started(redis_server: Any, policy: Any) -> None:
    changes: list[StoreChange] = []
    with replica(redis_server, policy(calls_per_day=10), changes) as decide:
        assert decide(calls=4).remaining == 6
        redis_server.kill()
        for _ in range(3):
            gone = decide()
            assert (gone.allowed, gone.bound, gone.degraded) == (False, GONE, True)
            assert (gone.refusal().status, gone.refusal().code) == (503, GONE)
            assert gone.refusal().headers == {"Retry-After": "1"}
        assert [change.state for change in changes] == ["gone"]
        redis_server.start()
        assert back(decide).allowed
        assert [change.state for change in changes] == ["gone", "back", "emptied"]
        assert not decide(calls=6).allowed, "this replica remembers what the store lost"
        assert decide(calls=5).allowed


def test_without_its_store_a_replica_goes_on_with_a_share_and_says_so(redis_server: Any, policy: Any) -> None:
    changes: list[StoreChange] = []
    values = {"when_store_is_gone": "degrade", "degraded_share": 0.25}
    with replica(redis_server, policy(calls_per_day=40), changes, **values) as decide:
        assert not decide(calls=4).degraded
        redis_server.kill()
        decisions = [decide() for _ in range(12)]
        assert [decision.allowed for decision in decisions] == [True] * 6 + [False] * 6, "a quarter, less the four"
        assert all(decision.degraded for decision in decisions)
        assert decisions[-1].refusal().code == "account_calls_per_day"
        redis_server.start()
        time.sleep(0.2)
        assert not back(decide).degraded
        assert [change.state for change in changes] == ["gone", "back", "emptied"]


def test_a_store_that_hangs_costs_one_time_out(redis_server: Any, policy: Any) -> None:
    changes: list[StoreChange] = []
    values = {"store_timeout": 1.5, "when_store_is_gone": "degrade", "degraded_share": 1.0}
    with asyncio.Runner() as loop:
        chosen = shared(redis_server.uri, policy(calls_per_day=10_000), store_pause=1.0, **values)
        limiter = Limiter(chosen, told=changes.append)

        async def many() -> list[Decision]:
            return await asyncio.gather(*(ask(limiter) for _ in range(60)))

        assert not any(decision.degraded for decision in loop.run(many()))
        redis_server.hang()
        start = time.monotonic()
        hung = loop.run(many())
        took = time.monotonic() - start
        assert all(decision.allowed and decision.degraded for decision in hung)
        assert took < 2 * 1.5
        assert "no answer within 1.5 s" in changes[0].why
        redis_server.resume()
        left = back(lambda: loop.run(ask(limiter))).remaining
        assert [change.state for change in changes] == ["gone", "back"], "nothing was lost"
        after = [loop.run(ask(limiter)).remaining for _ in range(5)]
        assert after == list(range(left - 1, left - 6, -1)), "no answer is taken for that of another call"
        loop.run(limiter.close())


def test_killed_and_started_under_load_never_more_than_the_budget(redis_server: Any, policy: Any) -> None:
    changes: list[StoreChange] = []
    decisions: list[Decision] = []
    chosen = shared(redis_server.uri, policy(calls_per_day=300), store_pause=0.05)

    async def until(reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not reached():
                await asyncio.sleep(0.01)

    async def load() -> None:
        limiter, done = Limiter(chosen, told=changes.append), asyncio.Event()

        async def client() -> None:
            while not done.is_set():
                decisions.append(await ask(limiter))
                await asyncio.sleep(0.005)

        clients = asyncio.gather(*(client() for _ in range(10)))
        await until(lambda: sum(decision.allowed for decision in decisions) >= 50)
        redis_server.kill()
        await until(lambda: sum(decision.bound == GONE for decision in decisions) >= 20)
        await asyncio.to_thread(redis_server.start)
        await until(lambda: sum(decision.allowed for decision in decisions) >= 300)
        await asyncio.sleep(0.1)
        done.set()
        await clients
        await limiter.close()

    asyncio.run(load())
    assert sum(decision.allowed for decision in decisions) == 300
    assert [change.state for change in changes] == ["gone", "back", "emptied"], changes
    assert not any(decision.allowed for decision in decisions if decision.degraded)
    assert not decisions[-1].degraded
