"""Sessions: how long they last, how many there may be, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.service.access.sessions import Sessions, SessionSettings
from gro.service.core import Principal, Refused, Role

Refusing = Callable[..., AbstractContextManager[None]]
NOW = 1_800_000_000.0


def caller(account: str = "acme", credential: str = "key:0") -> Principal:
    return Principal(account, frozenset({Role.RANK}), credential)


def make(idle: float = 10.0, lifetime: float = 100.0, per_account: int = 3, total: int = 5) -> Sessions:
    return Sessions(SessionSettings(idle=idle, lifetime=lifetime, per_account=per_account, total=total))


def test_a_session_stands_for_whoever_opened_it() -> None:
    sessions = make()
    token = sessions.open(caller(), NOW)
    session = sessions.use(token, NOW)
    assert (session.principal.account, session.principal.roles) == ("acme", frozenset({Role.RANK}))
    assert session.opened_by == "key:0"
    assert session.principal.credential.startswith("session:")


def test_no_token_is_kept_or_guessable() -> None:
    sessions = make(per_account=100, total=100)
    tokens = {sessions.open(caller(), NOW) for _ in range(50)}
    assert len(tokens) == 50
    for token in tokens:
        assert len(token.removeprefix("gros_")) == 43
        assert token.removeprefix("gros_") not in repr(vars(sessions))
        assert token[5:15] not in sessions.use(token, NOW).principal.credential


def test_a_session_ends_when_it_is_idle(refusing: Refusing) -> None:
    sessions = make()
    token = sessions.open(caller(), NOW)
    for step in range(1, 6):
        sessions.use(token, NOW + step * 9.9)
    with refusing("session_idle"):
        sessions.use(token, NOW + 5 * 9.9 + 10)
    with refusing("session_unknown"):
        sessions.use(token, NOW + 5 * 9.9 + 10)


def test_a_session_ends_however_busy_it_is(refusing: Refusing) -> None:
    sessions = make()
    token = sessions.open(caller(), NOW)
    for second in range(100):
        sessions.use(token, NOW + second)
    with refusing("session_over"):
        sessions.use(token, NOW + 100)


@given(st.lists(st.floats(0, 15), max_size=40))
def test_a_session_lasts_just_as_long_as_it_should(gaps: list[float]) -> None:
    sessions, now = make(), 0.0
    token = sessions.open(caller(), now)
    for gap in gaps:
        now += gap
        try:
            sessions.use(token, now)
        except Refused as refusal:
            ended = refusal.code
        else:
            assert gap < 10 + 1e-6
            assert now < 100 + 1e-6
            continue
        assert ended == ("session_over" if now >= 100 - 1e-6 else "session_idle")
        assert gap >= 10 - 1e-6 or now >= 100 - 1e-6
        return


@given(st.lists(st.tuples(st.floats(0, 4), st.sampled_from([0.0, 0.0, 0.0, -1.0, -50.0, -1e6])), max_size=80))
def test_a_clock_that_goes_back_extends_no_session_beyond_the_gaps_it_went_back_in(
    steps: list[tuple[float, float]],
) -> None:
    sessions, true, shift, hidden = make(), 0.0, 0.0, 0.0
    token = sessions.open(caller(), NOW)
    for gap, back in steps:
        true, shift = true + gap, shift + back
        hidden += gap if back else 0.0
        try:
            sessions.use(token, NOW + true + shift)
        except Refused:
            return
        assert true - hidden < 100 + 1e-3


def test_a_clock_that_went_back_does_not_stop_time(refusing: Refusing) -> None:
    sessions = make()
    token = sessions.open(caller(), NOW)
    sessions.use(token, NOW + 1)
    sessions.use(token, NOW - 3600)
    with refusing("session_idle"):
        sessions.use(token, NOW - 3600 + 10)


def test_a_clock_that_went_back_extends_neither_busy_nor_idle_sessions(refusing: Refusing) -> None:
    sessions = make()
    busy, idle = sessions.open(caller(), NOW), sessions.open(caller(), NOW)
    for second in range(9):
        sessions.use(busy, NOW + second)
    for second in range(9, 100):
        sessions.use(busy, NOW + second - 50)  # set back between the 8th and the 9th second
        if second == 11:
            with refusing("session_idle"):
                sessions.use(idle, NOW + second - 50)
    with refusing("session_over"):
        sessions.use(busy, NOW + 101 - 50)


def test_a_closed_session_is_gone(refusing: Refusing) -> None:
    sessions = make()
    token, other = sessions.open(caller(), NOW), sessions.open(caller(), NOW)
    sessions.close(token)
    sessions.close(token)
    sessions.close("gros_none")
    with refusing("session_unknown"):
        sessions.use(token, NOW)
    sessions.use(other, NOW)


def test_all_sessions_of_an_account_end_together(refusing: Refusing) -> None:
    sessions = make()
    tokens, other = [sessions.open(caller(), NOW) for _ in range(3)], sessions.open(caller("other"), NOW)
    assert sessions.close_account("acme") == 3
    assert sessions.close_account("acme") == sessions.close_account("nobody") == 0
    for token in tokens:
        with refusing("session_unknown"):
            sessions.use(token, NOW)
    sessions.use(other, NOW)
    assert len(sessions) == 1


def test_an_account_has_so_many_sessions(refusing: Refusing) -> None:
    sessions = make()
    tokens = [sessions.open(caller(), NOW) for _ in range(3)]
    with refusing("sessions_of_account", 429):
        sessions.open(caller(), NOW)
    for token in tokens:
        sessions.use(token, NOW)  # nobody was pushed out
    sessions.close(tokens[0])
    sessions.open(caller(), NOW)


def test_all_accounts_have_so_many_sessions(refusing: Refusing) -> None:
    sessions = make()
    tokens = [sessions.open(caller(f"account-{i}"), NOW) for i in range(5)]
    with refusing("sessions_total", 503):
        sessions.open(caller("late"), NOW)
    for token in tokens:
        sessions.use(token, NOW)
    sessions.open(caller("late"), NOW + 10)
    assert len(sessions) == 1  # those that were idle made room


def test_a_busy_session_does_not_keep_idle_ones() -> None:
    sessions = make(total=2)
    busy, _ = sessions.open(caller("busy"), NOW), sessions.open(caller("idle"), NOW)
    sessions.use(busy, NOW + 9)
    sessions.open(caller("late"), NOW + 10)
    sessions.use(busy, NOW + 10)


def test_a_session_that_is_over_makes_room_for_its_account() -> None:
    sessions = make(idle=50.0)
    tokens = [sessions.open(caller(), NOW) for _ in range(3)]
    for token in tokens:
        sessions.use(token, NOW + 45)
    other = sessions.open(caller("other"), NOW + 60)
    for token in tokens:
        sessions.use(token, NOW + 90)
    sessions.open(caller(), NOW + 100)
    sessions.use(other, NOW + 100)
    assert len(sessions) == 2


def test_a_session_cannot_prolong_itself(refusing: Refusing) -> None:
    sessions = make()
    session = sessions.use(sessions.open(caller(), NOW), NOW)
    with refusing("session_from_session", 403):
        sessions.open(session.principal, NOW)


@given(st.text(max_size=60) | st.text("0123456789abcXYZ", min_size=43, max_size=43).map("gros_{}".format))
def test_nothing_else_is_a_session(token: str) -> None:
    sessions = make()
    sessions.open(caller(), NOW)
    with pytest.raises(Refused, match=r"session_(malformed|unknown)"):
        sessions.use(token, NOW)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["open", "close", "all"]), st.floats(0, 8))))
def test_bounds_hold_whatever_happens(steps: list[tuple[str, str, float]]) -> None:
    sessions, now, tokens = make(), 0.0, dict[str, str]()
    for account, action, gap in steps:
        now += gap
        if action == "all":
            sessions.close_account(account)
        elif action == "close":
            sessions.close(tokens.get(account, ""))
        elif len(sessions) < 5:
            try:
                tokens[account] = sessions.open(caller(account), now)
            except Refused:
                continue
            assert sessions.use(tokens[account], now).principal.account == account
        assert len(sessions) <= 5
    assert sum(sessions.close_account(account) for account in "abcd") <= 5
    assert len(sessions) == 0


@pytest.mark.parametrize("name", ["idle", "lifetime", "per_account", "total"])
def test_there_is_no_session_without_bounds(name: str) -> None:
    for value in (0, -1, "never"):
        with pytest.raises(ConfigError, match=name):
            SessionSettings.make({name: value})
