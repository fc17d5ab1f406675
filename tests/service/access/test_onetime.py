"""The memory of used tokens: it refuses what it cannot vouch for and never forgets to make room."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.service.access.onetime import OneTime
from gro.service.core import Refused

Refusing = Callable[..., AbstractContextManager[None]]


def test_a_full_memory_refuses_and_does_not_forget(refusing: Refusing) -> None:
    memory = OneTime(room=2, begun=0.0)
    memory.use("a", 0.0, 100.0, 0.0)
    memory.use("b", 0.0, 60.0, 0.0)
    with pytest.raises(Refused) as refusal:
        memory.use("c", 0.0, 100.0, 10.5)
    assert (refusal.value.status, refusal.value.headers["Retry-After"]) == (503, "50")
    for name in "ab":
        with refusing("token_replayed"):
            memory.use(name, 0.0, 100.0, 20.0)
    memory.use("c", 0.0, 100.0, 60.0)
    assert len(memory) == 2


def test_a_clock_that_goes_back_lets_no_forgotten_token_in(refusing: Refusing) -> None:
    memory = OneTime(room=10, begun=0.0)
    memory.use("a", 0.0, 50.0, 0.0)
    memory.use("b", 0.0, 500.0, 100.0)  # forgets a
    with refusing("token_replay_unknown"):
        memory.use("a", 0.0, 50.0, 10.0)
    memory.use("c", 0.0, 101.0, 10.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30), st.integers(-20, 20)), max_size=60))
def test_no_token_is_let_through_twice_however_the_clock_goes(calls: list[tuple[int, int, int]]) -> None:
    memory, now, ends, through = OneTime(room=4, begun=0.0), 100.0, dict[int, float](), set[int]()
    for name, life, step in calls:
        now = max(1.0, now + step)
        until = ends.setdefault(name, now + life)
        if now >= until:
            continue  # expired: refused before the memory is asked
        try:
            memory.use(str(name), 50.0, until, now)
        except Refused:
            continue
        assert name not in through
        through.add(name)
        assert len(memory) <= 4
