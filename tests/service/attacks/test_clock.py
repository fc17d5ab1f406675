"""A machine's clock that is set back and ahead while the guard serves."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from gro.service.access.keys import KeySettings, KeyStore
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.playbook import State

Service = Any
DAY = 86_400
REFUSALS = """
[[rule]]
name = "refusals"
when = { refusals_per_hour = 3 }
then = "suspend"
for = "1h"
"""


class Clock:
    """Unix time, as far as the machine can be relied on."""

    def __init__(self) -> None:
        self.start = self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def set(self, seconds: float) -> None:
        """To so many seconds after the start."""
        self.now = self.start + seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(service: Service, clock: Clock) -> Guard:
    (service.folder / "policy.toml").write_text("[limits]\ncalls_per_day = 3\n")
    (service.folder / "playbook.toml").write_text(REFUSALS)
    return Guard(service.settings().model_copy(update={"monitor": None}), clock=clock)


def test_a_clock_that_is_set_gives_no_budget_back(door: Any, clock: Clock) -> None:
    """Budgets go by a clock that nobody sets."""
    keys = KeyStore(KeySettings(path=door.service.folder / "keys.json"))
    door.key = keys.create("anna", (Role.RANK,), 30.0 * DAY, clock())[1]
    assert [door.good().status for _ in range(4)] == [200, 200, 200, 429]
    for seconds in (-3 * DAY, 3 * DAY):
        clock.set(seconds)
        assert door.good().said["error"] == "account_calls_per_day"
    assert door.service.asked == 3


def test_a_hold_of_a_rule_lasts_as_long_as_it_would_have(door: Any, clock: Clock) -> None:
    assert [door.ask(door.request(b"{")).status for _ in range(3)] == [400] * 3
    assert door.good().status == 403, "which is a refusal as well, and begins the hour anew"
    for seconds in (3_599, -DAY, -DAY - 10, -DAY - 9.1):  # of the hour one second was left
        clock.set(seconds)
        assert door.guard.responses.response("anna").state is State.SUSPEND, seconds
    clock.set(-DAY - 8.9)
    assert door.good().status == 200


def test_a_hold_of_an_operator_lasts_until_its_date(door: Any, clock: Clock) -> None:
    operator = {"X-API-Key": door.service.key("otto", Role.OPERATE)}
    held = {"account": "anna", "state": "suspend", "why": "x", "seconds": 600}
    assert httpx.post(f"{door.url}/guard/hold", json=held, headers=operator).status_code == 200
    for seconds, status in ((599, 403), (-DAY, 403), (599, 403), (601, 200)):
        clock.set(seconds)
        assert door.good().status == status, seconds


def test_a_session_ends_in_time_and_a_key_at_its_date(door: Any, clock: Clock) -> None:
    token = door.ask(door.request(b"", start=b"POST /guard/session")).said["session"]
    session = door.request(b'{"histories":[[1]]}', f"Authorization: Bearer {token}".encode(), key=b"")
    for seconds, status in ((890, 200), (-DAY, 200), (-DAY + 890, 200), (-DAY + 1_800, 401), (0, 401)):
        clock.set(seconds)
        assert door.ask(session).status == status, seconds
    clock.set(DAY)
    assert door.good().status == 401
