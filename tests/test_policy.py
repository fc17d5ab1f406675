"""Policy files: what they may say, and what is said of those that may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.policy import MINUTES, SHIPPED, Assumptions, Limits, Policy, read_policy

Write = Callable[[str], Path]
COUNTS = st.integers(1, 10**6)
OPTIONAL = st.none() | COUNTS


def refused(policy: str | Path) -> str:
    with pytest.raises(ConfigError) as error:
        read_policy(policy)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [path.stem for path in SHIPPED.glob("*.toml")])
def test_shipped_policies_are_read_by_name_and_by_path(name: str) -> None:
    assert read_policy(name) == read_policy(SHIPPED / f"{name}.toml") == read_policy(str(SHIPPED / f"{name}.toml"))


def test_strict_lets_less_through_than_lenient() -> None:
    strict, lenient = read_policy("strict"), read_policy("lenient")
    assert strict.limits.daily_calls(100) < lenient.limits.daily_calls(100)
    assert strict.thief.caught_per_day > lenient.thief.caught_per_day


def test_every_line_is_read(write: Write) -> None:
    limits = "[limits]\ncalls_per_day = 1000\ncalls_per_minute = 60\nlist_entries_per_day = 20000\n"
    thief = "accounts = 7\ndays = 3\ncaught_per_day = 0.05\nnew_accounts = true\naccount_cost = 2.0\ncall_cost = 0.01\n"
    policy = read_policy(write(f"{limits}[thief]\n{thief}"))
    assert policy.limits.model_dump() == {
        "calls_per_day": 1000,
        "calls_per_minute": 60,
        "list_entries_per_day": 20_000,
    }
    assert policy.thief.model_dump() == {
        "accounts": 7,
        "days": 3,
        "caught_per_day": 0.05,
        "new_accounts": True,
        "account_cost": 2.0,
        "call_cost": 0.01,
    }


def test_a_guard_needs_no_thief(write: Write) -> None:
    policy = read_policy(write("[limits]\ncalls_per_day = 5"))
    assert policy == Policy(limits=Limits(calls_per_day=5), thief=Assumptions())
    assert policy.limits.daily_calls(k=10**9) == 5


def test_the_tightest_limit_binds() -> None:
    assert Limits(calls_per_day=5000, calls_per_minute=2).daily_calls(k=1) == 2 * MINUTES
    assert Limits(calls_per_day=5000, calls_per_minute=60, list_entries_per_day=999).daily_calls(k=100) == 9
    assert Limits(calls_per_day=5000, list_entries_per_day=99).daily_calls(k=100) == 0


@given(COUNTS, OPTIONAL, OPTIONAL, st.integers(1, 1000), COUNTS)
def test_a_stricter_limit_never_gives_more(
    day: int, minute: int | None, entries: int | None, k: int, stricter: int
) -> None:
    limits = Limits(calls_per_day=day, calls_per_minute=minute, list_entries_per_day=entries)
    for name, value in limits.model_dump().items():
        changed = limits.model_copy(update={name: min(stricter, value or stricter)})
        assert changed.daily_calls(k) <= limits.daily_calls(k)
    assert limits.daily_calls(k + 1) <= limits.daily_calls(k)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\ncalls_per_dya = 5", "unknown key 'calls_per_dya'. Did you mean 'calls_per_day'?"),
        ("[limits]\ncalls_per_minute = 5", "[limits]: 'calls_per_day' is required"),
        ("[limits]\ncalls_per_day = 0", "[limits]: 'calls_per_day' is 0: Input should be greater than 0"),
        ("[limits]\ncalls_per_day = 5\n[thief]\ncaught_per_day = 1.5", "1.5: Input should be less than 1"),
        ("[limits]\ncalls_per_day = 5\n[thief]\ncaught_per_day = nan", "'caught_per_day' is nan"),
        ("[limits]\ncalls_per_day = 5\n[thief]\naccount_cost = inf", "inf: Input should be a finite number"),
        ("[limits]\ncalls_per_day = 5\n[thief]\nday = 3", "[thief]: unknown key 'day'. Did you mean 'days'?"),
        ("[limits]\ncalls_per_day = 5\n[thief]\ndays = 9999", "9999: Input should be less than or equal to 365"),
        ("[limit]\ncalls_per_day = 5", "unknown key 'limit'. Did you mean 'limits'?"),
        ("[thief]\ndays = 3", "'limits' is required"),
        ("limits = 5", "'limits' is 5; it must be a table, [limits]"),
        ("[[limits]]\ncalls_per_day = 5", "it must be a table, [limits]"),
        ("[limits", "not a TOML file"),
    ],
)
def test_a_malformed_policy_is_one_line(write: Write, text: str, said: str) -> None:
    path = write(text)
    assert said in refused(path)
    assert str(path) in refused(path)


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    assert refused("strickt").startswith(
        "no policy 'strickt'. Did you mean 'strict'? Policies: lenient, strict, or the"
    )
    assert "no such file" in refused(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    assert "is a directory" in refused(tmp_path / "folder.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "not a TOML file" in refused(tmp_path / "bytes.toml")
