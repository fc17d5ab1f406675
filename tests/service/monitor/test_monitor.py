from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gro.errors import DataError
from gro.service.monitor.accounts import ACCOUNT, FEATURES, features
from gro.service.monitor.calibration import Calibration, calibrate, sequences
from gro.service.monitor.detector import FIRST, Judgement
from gro.service.monitor.monitor import Accounts, Monitor

Ids = npt.NDArray[np.int64]
World = Any
CALLS = 200


def anything(world: World) -> Callable[[Ids, Ids], int]:
    return lambda history, listed: world.anything()


def anywhere_in_the_list(world: World) -> Callable[[Ids, Ids], int]:
    return lambda history, listed: int(world.rng.choice(listed))


def mostly_the_top(world: World) -> Callable[[Ids, Ids], int]:
    return lambda history, listed: int(listed[min(int(world.rng.exponential(2)), len(listed) - 1)])


def thief(world: World, pick: Callable[[Ids, Ids], int], length: int = 50) -> list[Any]:
    calls = [call for _ in range(CALLS // length) for call in world.calls("thief", length, pick)]
    return sorted(calls, key=lambda call: call.time) if length == 1 else calls


def watch(monitor: Monitor, calls: Iterable[Any]) -> list[Judgement]:
    return [monitor.observe(call.account, call.history, call.listed, call.time) for call in calls]


def first_alarm(calibration: Calibration, calls: Iterable[Any]) -> int | None:
    judged = watch(calibration.monitor(), calls)
    return next((number for number, each in enumerate(judged, 1) if each.alarm), None)


@pytest.mark.parametrize("pick", [anything, anywhere_in_the_list, mostly_the_top])
@pytest.mark.parametrize("length", [50, 5])
def test_thieves_are_flagged_within_200_calls(
    calibration: Calibration, world: World, pick: Callable[[World], Callable[[Ids, Ids], int]], length: int
) -> None:
    w = world(1)
    assert first_alarm(calibration, thief(w, pick(w), length)) is not None


def test_few_people_who_were_not_in_the_log_are_ever_flagged(calibration: Calibration, world: World) -> None:
    calls, monitor = world(2).people(300, "stranger"), calibration.monitor()
    judged = zip(calls, watch(monitor, calls), strict=True)
    flagged = {call.account for call, judgement in judged if judgement.alarm}
    assert len(flagged) <= 0.01 * 300 + 3 * np.sqrt(0.01 * 300)


def test_nothing_is_said_of_an_account_after_a_few_calls(calibration: Calibration, world: World) -> None:
    w = world(3)
    calls = [next(iter(w.calls("new", 1, anything(w)))) for _ in range(FIRST - 1)]
    assert not any(judged.alarm for judged in watch(calibration.monitor(), calls))


def test_an_alarm_names_what_is_odd_about_a_thief(calibration: Calibration, world: World) -> None:
    w = world(4)
    judged = watch(calibration.monitor(), thief(w, anything(w)))
    reasons = next(each for each in judged if each.alarm).reasons
    assert {reason.feature for reason in reasons} & {"listed", "plausible"}
    assert all(abs(a.deviations) >= abs(b.deviations) for a, b in pairwise(reasons))
    listed = next((reason for reason in reasons if reason.feature == "listed"), None)
    if listed is not None:
        assert listed.value < listed.usual
        assert listed.deviations < 0


def test_ten_accounts_that_share_a_history_are_all_flagged_within_2000_calls(
    calibration: Calibration, world: World
) -> None:
    w, monitor, flagged = world(5), calibration.monitor(), set()
    for turn, call in enumerate(thief(w, w.person(0.25))):
        name = f"accomplice-{turn % 10}"
        if (judged := monitor.observe(name, call.history, call.listed, call.time)).alarm:
            flagged.add(name)
            assert any(reason.feature == "foreign" for reason in judged.reasons)
    assert len(flagged) == 10


def test_people_who_skip_items_between_calls_go_on_with_their_history(world: World) -> None:
    w = world(6)
    calls = list(w.calls("one", 30, w.person(0.25)))[::3]
    (sequence,) = (items for _, items in sequences(calls))
    assert sequence.tolist() == calls[-1].history.tolist()


def test_histories_cut_to_their_last_items_go_on(world: World) -> None:
    w = world(7)
    calls = list(w.calls("one", 40, w.person(0.25)))
    cut = [type(call)(call.account, call.time, call.history[-12:], call.listed) for call in calls]
    assert [items.tolist() for _, items in sequences(cut)] == [calls[-1].history.tolist()]


def test_a_clock_that_goes_back_is_no_alarm_and_no_error(calibration: Calibration, world: World) -> None:
    w = world(8)
    calls = list(w.calls("one", 40, w.person(0.25)))
    back = [
        type(call)(call.account, call.time - 1e6 * (n % 2), call.history, call.listed) for n, call in enumerate(calls)
    ]
    assert all(np.isfinite(judged.score) for judged in watch(calibration.monitor(), back))


def test_memory_of_an_account_does_not_grow_with_its_calls(calibration: Calibration, world: World) -> None:
    w = world(9)
    calls = list(w.calls("one", 400, anything(w)))
    monitor = calibration.monitor(answers=1 << 10)
    watch(monitor, calls[:200])
    tracemalloc.start()
    watch(monitor, calls[200:])
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 32_768


def test_beyond_the_most_the_account_that_was_silent_longest_is_forgotten() -> None:
    accounts = Accounts(3)
    for name in ("a", "b", "c", "a", "d"):
        record = accounts.touch(name)
        record["calls"] += 1
    assert list(accounts) == ["c", "a", "d"]
    assert accounts.touch("b")["calls"] == 0
    found = accounts.find("a")
    assert found is not None
    assert found["calls"] == 2


def test_an_account_takes_some_six_hundred_bytes_besides_its_name() -> None:
    assert ACCOUNT.itemsize <= 610


def test_padding_of_a_list_is_no_item(calibration: Calibration, world: World) -> None:
    w = world(13)
    calls = list(w.calls("one", 60, w.person(0.25)))
    padded = [replace(call, listed=np.append(call.listed, np.zeros(70, np.int64))) for call in calls]
    assert watch(calibration.monitor(), padded) == watch(calibration.monitor(), calls)


def test_nothing_is_wrong_with_a_history_of_nothing_or_a_list_of_nothing(
    calibration: Calibration, world: World
) -> None:
    nothing = np.empty(0, np.int64)
    (call,) = world(14).calls("one", 1, anything(world(14)))
    calls = [replace(call, history=nothing), replace(call, listed=nothing), call] * 5
    assert all(np.isfinite(judged.score) for judged in watch(calibration.monitor(), calls))


def test_an_account_that_was_forgotten_goes_on_with_its_own_history(calibration: Calibration, world: World) -> None:
    w, monitor = world(15), calibration.monitor(accounts=2)
    mine, others = (
        list(w.calls("one", 30, w.person(0.25))),
        [*w.calls("a", 1, anything(w)), *w.calls("b", 1, anything(w))],
    )
    watch(monitor, [*mine[:20], *others, mine[20]])
    assert foreign(monitor, "one") == 0


def test_an_account_that_takes_the_place_of_a_forgotten_one_does_not_own_what_that_one_asked(
    calibration: Calibration, world: World
) -> None:
    w, monitor = world(16), calibration.monitor(accounts=1)
    calls = list(w.calls("one", 30, w.person(0.25)))
    watch(monitor, [*calls[:20], replace(calls[20], account="heir")])
    assert foreign(monitor, "heir") == 1


def foreign(monitor: Monitor, account: str) -> float:
    """Calls that went on with another account's history."""
    record = monitor.accounts.find(account)
    assert record is not None
    values, rests = features(record)
    at = list(FEATURES).index("foreign")
    return float(values[at] * rests[at])


def test_the_promise_holds_where_counts_begin_anew(world: World) -> None:
    """People who go elsewhere at the end of their calls: much of what is counted last, little of all they made."""

    def people(seed: int, n: int) -> Iterator[Any]:
        w = world(seed)
        for number in range(n):
            steady, wanders = w.person(0.25), number % 3 == 0

            def pick(history: Ids, listed: Ids, steady: Any = steady, wanders: bool = wanders) -> int:
                return int(w.anything() if wanders and len(history) > 40 else steady(history, listed))

            yield from w.calls(f"{seed}-{number}", 56, pick)

    calibration = calibrate(list(people(17, 100)), 0.05, 0.9)
    assert calibration.detector.longest == 40
    calls, monitor = list(people(18, 100)), calibration.monitor()
    judged = zip(calls, watch(monitor, calls), strict=True)
    flagged = {call.account for call, judgement in judged if judgement.alarm}
    assert len(flagged) <= 0.05 * 100 + 3 * np.sqrt(0.05 * 100)


def test_a_log_of_too_few_accounts_says_how_many_it_takes(world: World) -> None:
    with pytest.raises(DataError, match=r"holds 100 accounts .* take 230: give a longer log"):
        calibrate(world(10).people(100))


def test_a_log_of_accounts_with_too_few_calls_is_refused(world: World) -> None:
    w = world(11)
    calls = [call for n in range(300) for call in w.calls(f"u-{n}", 8, w.person(0.25))]
    with pytest.raises(DataError, match="made 12 calls; it takes 30"):
        calibrate(calls)


def test_calibrating_again_gives_the_same(world: World) -> None:
    calls = world(12).people(90)
    one, other = calibrate(calls, 0.1), calibrate(calls, 0.1)
    assert one.detector.threshold == other.detector.threshold
    assert (one.detector.covariances == other.detector.covariances).all()
    assert (one.background.vectors == other.background.vectors).all()
