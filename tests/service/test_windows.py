"""Windows in memory against every call remembered; what is forgotten; what a clock may do."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from gro.service.windows import CALLS, CELLS, ENTRIES, Quota, Windows, fits

MINUTE, DAY = 60, 86_400
STEPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.3, 4.9, 5.0, 30.0, 59.9, 60.0, 3_000.0, 50_000.0]), st.integers(1, 4))
)


class Remembered:
    """Every call, exactly."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int]] = []

    def used(self, now: float, span: float) -> int:
        return sum(calls for at, calls in self.calls if now - span < at <= now)


@given(STEPS, st.integers(1, 12), st.integers(1, 30), st.floats(0, 1e9))
def test_no_window_ever_holds_more_than_its_quota(
    steps: list[tuple[float, int]], minute: int, day: int, start: float
) -> None:
    windows, remembered, now = Windows(MINUTE, DAY), Remembered(), start
    quotas = [Quota("a", MINUTE, CALLS, minute), Quota("a", DAY, CALLS, day)]
    for step, calls in steps:
        now += step
        if fits(quotas, windows.charge(quotas, (calls, 0), now), (calls, 0)):
            remembered.calls.append((now, calls))
        assert remembered.used(now, MINUTE) <= minute
        assert remembered.used(now, DAY) <= day


@given(STEPS, st.floats(0, 1e9))
def test_counts_are_never_short_and_late_by_one_cell_at_most(steps: list[tuple[float, int]], start: float) -> None:
    windows, remembered, now = Windows(MINUTE, DAY), Remembered(), start
    for step, calls in steps:
        now += step
        windows.add("a", now, calls)
        remembered.calls.append((now, calls))
    for span in (MINUTE, DAY):
        assert remembered.used(now, span) <= windows.used("a", now, span)
        assert windows.used("a", now, span) <= remembered.used(now, span * (1 + 1 / CELLS) + 1e-6)


@given(STEPS, st.integers(1, 20))
def test_what_is_refused_fits_after_the_wait_and_not_before(steps: list[tuple[float, int]], amount: int) -> None:
    windows, now = Windows(MINUTE, DAY), 0.0
    quota = Quota("a", DAY, CALLS, amount)
    for step, calls in steps:
        now += step
        level = windows.charge([quota], (calls, 0), now)[0]
        if level.used + calls > amount >= calls:
            assert 0 < level.wait <= DAY
            assert windows.used("a", now + level.wait + 1e-3, DAY) + calls <= amount
            break


@given(STEPS, st.lists(st.floats(-2 * DAY, 0), max_size=3), st.integers(1, 20))
def test_a_clock_that_goes_back_hands_nothing_out_and_takes_a_window_at_most(
    steps: list[tuple[float, int]], jumps: list[float], amount: int
) -> None:
    windows, now, passed, quota = Windows(MINUTE, DAY), 1e6, 0, Quota("a", DAY, CALLS, amount)
    for jump in [0.0, *jumps]:
        now += jump
        for step, calls in steps[:5]:
            now += step / 1_000
            passed += calls * fits([quota], windows.charge([quota], (calls, 0), now), (calls, 0))
    assert passed <= amount
    assert windows.used("a", now + DAY + 1, DAY) == 0


def test_a_batch_is_counted_for_every_name_or_for_none() -> None:
    windows = Windows(MINUTE, DAY)
    quotas = [Quota("a", DAY, CALLS, 10), Quota("b", DAY, CALLS, 5), Quota("b", DAY, ENTRIES, 100)]
    for calls, entries in [(6, 0), (1, 101), (11, 0)]:
        assert not fits(quotas, windows.charge(quotas, (calls, entries), 0.0), (calls, entries))
        assert len(windows) == 0
    assert fits(quotas, windows.charge(quotas, (5, 100), 0.0), (5, 100))
    assert [windows.used(quota.name, 0.0, quota.span, quota.column) for quota in quotas] == [5, 5, 100]


@given(STEPS, st.integers(1, 4), STEPS)
def test_what_is_refunded_was_never_counted(
    before: list[tuple[float, int]], cost: int, after: list[tuple[float, int]]
) -> None:
    quotas, now = [Quota("a", DAY, CALLS, 10**6)], 1e6
    windows, without = Windows(MINUTE, DAY), Windows(MINUTE, DAY)
    for step, calls in before:
        now += step
        windows.add("a", now, calls)
        without.add("a", now, calls)
    then = now = now + 1
    windows.charge(quotas, (cost, 3), then)
    for step, calls in after[:3]:
        now += step / 1_000
        windows.add("a", now, calls)
        without.add("a", now, calls)
    windows.refund(quotas, (cost, 3), then)
    assert windows.used("a", now, DAY) == without.used("a", now, DAY)
    assert windows.used("a", now, DAY, ENTRIES) == 0
    later = now + DAY - 1
    assert windows.used("a", later, DAY) >= without.used("a", later, DAY), "nothing is given back before its time"


def test_a_refund_of_what_is_forgotten_is_nothing() -> None:
    windows = Windows(MINUTE, DAY)
    windows.refund([Quota("a", DAY, CALLS, 1)], (1, 0), 0.0)
    assert len(windows) == 0


def test_idle_names_are_forgotten() -> None:
    windows = Windows(MINUTE, DAY)
    for name in range(10_000):
        windows.add(f"idle-{name}", 0.0, 1)
    for visit in range(200):
        windows.add("busy", DAY + visit, 1)
    assert len(windows) == 1
    windows.drop("busy")
    assert len(windows) == 0


def test_a_name_takes_few_hundred_bytes() -> None:
    names, windows = 500, Windows(MINUTE, DAY)
    tracemalloc.start()
    try:
        for hour in range(24):  # an account that calls every hour of the day
            for name in range(names):
                windows.add(f"account/customer-{name:07d}", hour * 3_600.0, 2, 20)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / names < 700
