"""The last call of a budget, a Redis that is killed, a disk that is full: through HTTP, and never a call too many."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from gro.service.audit import AuditSettings
from gro.service.chain import entries, verify
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.limits import LimitSettings
from gro.service.playbook import State

Service = Any
Until = Callable[[Callable[[], bool]], None]
QUESTION = {"histories": [[1, 2, 3]]}


def limited(service: Service, calls: int, **limits: Any) -> Guard:
    """A guard with a budget of ``calls`` a day for an account."""
    policy = service.folder / "policy.toml"
    policy.write_text(f"[limits]\ncalls_per_day = {calls}\n")
    settings = LimitSettings.make({"policy": str(policy), "store_timeout": 5.0, "store_pause": 0.1, **limits})
    shared = {"monitor": None, "audit": None, "limits": settings}
    return Guard(service.settings().model_copy(update=shared))


def race(urls: list[str], key: str, calls: int) -> list[httpx.Response]:
    """Ask all at once, each server in turn."""

    async def ask_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=calls)
        async with httpx.AsyncClient(headers={"X-API-Key": key}, limits=limits, timeout=60) as client:
            asked = (client.post(f"{urls[at % len(urls)]}/rank", json=QUESTION) for at in range(calls))
            return await asyncio.gather(*asked)

    return asyncio.run(ask_all())


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("budget", [1, 7])
def test_of_fifty_at_once_the_last_calls_go_to_as_many_as_there_are(
    service: Service, opened: Any, redis_server: Any, replicas: int, shared: bool, budget: int
) -> None:
    limits = {"store": f"async+{redis_server.uri}"} if shared else {}
    with ExitStack() as stack:
        doors = [stack.enter_context(opened(service, limited(service, budget, **limits))) for _ in range(replicas)]
        answers = race([door.url for door in doors], doors[0].key, 50)
    apart = replicas if not shared else 1
    assert Counter(answer.status_code for answer in answers) == {200: budget * apart, 429: 50 - budget * apart}
    assert service.asked == budget * apart
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers if answer.status_code == 429)


@contextlib.contextmanager
def load(url: str, key: str) -> Iterator[list[httpx.Response]]:
    """Eight callers who ask without end; what they were answered."""
    answers: list[httpx.Response] = []
    done = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=60) as client:
            while not done.wait(0.01):
                answers.append(client.post("/rank", json=QUESTION))

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    try:
        yield answers
    finally:
        done.set()
        for caller in callers:
            caller.join()


def passed(answers: list[httpx.Response]) -> int:
    return sum(answer.status_code == 200 for answer in list(answers))


@pytest.mark.parametrize("gone", ["deny", "degrade"])
def test_a_redis_that_is_killed_and_started_under_load_hands_out_nothing_twice(
    service: Service, opened: Any, redis_server: Any, until: Until, gone: str
) -> None:
    """What was let through before counts while it is away and when it is back, empty."""
    store = {"store": f"async+{redis_server.uri}", "when_store_is_gone": gone, "degraded_share": 0.5}
    guard = limited(service, 200, **store)
    with opened(service, guard) as door, load(door.url, door.key) as answers:
        until(lambda: passed(answers) >= 20)
        redis_server.kill()
        until(lambda: guard.trouble != ())
        refused = 503 if gone == "deny" else 429
        until(lambda: sum(answer.status_code == refused for answer in list(answers)) >= 20)
        away = passed(answers)
        redis_server.start()
        until(lambda: passed(answers) >= 200)
        seen = len(answers)
        until(lambda: len(answers) >= seen + 20)
        assert guard.trouble == ()
    assert service.asked == passed(answers) == 200
    assert set(Counter(answer.status_code for answer in answers)) == {200, 429, *({503} if gone == "deny" else ())}
    for answer in answers:
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1
        assert answer.status_code != 503 or answer.json()["error"] == "limit_store_gone"
        assert answer.status_code != 200 or answer.headers["ratelimit"].startswith('"account_calls_per_day";r=')
    assert away <= 100 or gone == "deny", "half of the budget"
    actions = [event["event"]["action"] for event in service.logged() if "store" in event["event"]["action"]]
    assert actions == ["store-degraded", "store-recovered", "store-emptied"]


@pytest.fixture
def full_disk() -> Iterator[Callable[[int | None], None]]:
    """No file of this process may grow beyond so many bytes; None: any may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)


def audited(service: Service, fails: str) -> Guard:
    """A guard whose audit log is by far its longest file."""
    settings = service.settings()
    audit = AuditSettings.make({**settings.audit.model_dump(), "when_audit_fails": fails})
    return Guard(settings.model_copy(update={"monitor": None, "audit": audit}))


def order(client: httpx.Client, account: str, why: str = "x") -> httpx.Response:
    return client.post("/guard/hold", json={"account": account, "state": "suspend", "why": why})


@pytest.mark.parametrize("fails", ["deny", "continue"])
def test_an_audit_log_without_room_is_as_its_settings_say_and_what_is_missing_is_noted(
    service: Service, opened: Any, full_disk: Callable[[int | None], None], until: Until, fails: str
) -> None:
    guard, path = audited(service, fails), service.folder / "audit.jsonl"
    secret = (service.folder / "secret").read_bytes()
    operator = {"X-API-Key": service.key("otto", Role.OPERATE)}
    with opened(service, guard) as door, httpx.Client(base_url=door.url, headers=operator) as client:
        for number in range(20):
            assert order(client, f"user-{number}", "x" * 500).status_code == 200
        assert guard.logs.flush()
        full_disk(path.stat().st_size + 10)
        answers = [order(client, "thief") for _ in range(3)]
        trouble = client.get("/guard/overview").json()["trouble"]
        assert door.good().status == 200, "nothing of it is for the audit log"
        full_disk(None)
        if fails == "deny":
            assert {answer.status_code for answer in answers} == {503}
            assert {answer.json()["error"] for answer in answers} == {"audit_unavailable"}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
            assert guard.responses.response("thief").state is State.NORMAL, "what is not written is not done"
            missed = 3
        else:
            assert {answer.status_code for answer in answers} == {200}
            assert guard.responses.response("thief").state is State.SUSPEND
            missed = 4  # the transition too
        assert "audit log cannot be written" in trouble[0]
        assert order(client, "other").status_code == 200
        assert client.get("/guard/overview").json()["trouble"] == []
    verify(path, secret.strip())
    notes = [entry.note["missed"] for entry in entries(path, secret.strip()) if entry.note and "missed" in entry.note]
    assert notes == [missed]
    assert len(service.events("audit-failed")) == missed


REFUSALS = """
[[rule]]
name = "refusals"
when = { refusals_per_hour = 3 }
then = "suspend"
"""


def test_what_waits_together_for_an_audit_log_without_room_is_all_counted(
    service: Service, opened: Any, full_disk: Callable[[int | None], None]
) -> None:
    """A refusal waits for no disk; the next question does, for what the refusals before it led to."""
    (service.folder / "playbook.toml").write_text(REFUSALS)
    guard, path = audited(service, "deny"), service.folder / "audit.jsonl"
    operator = {"X-API-Key": service.key("otto", Role.OPERATE)}
    with opened(service, guard) as door, httpx.Client(base_url=door.url) as client:
        for number in range(20):
            long = {"account": f"user-{number}", "why": "x" * 900}
            assert client.post("/guard/release", json=long, headers=operator).status_code == 200
        assert guard.logs.flush()
        full_disk(path.stat().st_size + 10)
        for account in ("anna", "bob", "carl"):
            key = service.key(account).encode()
            assert [door.ask(door.request(b"{", key=key)).status for _ in range(3)] == [400] * 3
        key = service.key("dora").encode()
        statuses = [door.ask(door.request(key=key)).status for _ in range(2)]
        full_disk(None)
        assert statuses == [503, 200]
        assert door.ask(door.request()).status == 403
        assert client.post("/guard/release", json={"account": "anna", "why": "x"}, headers=operator).status_code == 200
    secret = (service.folder / "secret").read_bytes().strip()
    notes = [entry.note["missed"] for entry in entries(path, secret) if entry.note and "missed" in entry.note]
    assert notes == [3]
