"""The numbers of a report: what a plain computation over all calls at once finds."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.service.analysis import numbers
from gro.service.analysis import survey as surveying
from gro.service.analysis.analyse import analyse
from gro.service.analysis.counts import SLOTS, Coverage, buckets, count
from gro.service.analysis.survey import NOTHING, survey
from gro.service.monitor.accounts import FEATURES, features
from gro.service.monitor.calibration import POINTS, Calibration
from gro.service.monitor.detector import DOUBT, FIRST, compared, due
from gro.service.monitor.monitor import Watch

Calls = list[Any]
Logged = Callable[[Iterable[Any]], Path]
Numbers = dict[str, Any]
THIEF = "<b>thief</b> & $x$"


def untold(calls: int) -> None:
    pass


@pytest.fixture
def found(report: Any) -> Numbers:
    made: Numbers = report.numbers
    return made


def of(calls: Calls, kind: str) -> Calls:
    return [call for call in calls if (call.account == THIEF) == (kind == "flagged")]


def summed(counted: Counter[int], names: Sequence[str]) -> list[int]:
    """Counts in the buckets that names such as 3-5 say."""
    bounds = [(int(name.split("-")[0]), int(name.split("-")[-1])) for name in names]
    return [sum(times for number, times in counted.items() if low <= number <= high) for low, high in bounds]


def picked(calls: Calls) -> Iterator[tuple[str, int]]:
    """Who picked from which rank, 0 for none, by keeping all answers by the last eight items of their history."""
    answered: dict[tuple[int, ...], list[int]] = {}
    for call in calls:
        history = call.history.tolist()
        for new in range(1, 6):
            before = tuple(history[:-new][-8:])
            if before in answered and before:
                listed = answered[before]
                yield call.account, listed.index(history[-new]) + 1 if history[-new] in listed else 0
                break
        answered[tuple(history[-8:])] = call.listed.tolist()


def test_the_header_counts_the_log(found: Numbers, calls: Calls) -> None:
    about = found["about"]
    made = Counter(call.account for call in calls)
    assert (about["calls"], about["accounts"], about["flagged"]) == (len(calls), 31, 1)
    assert (about["judged"], about["flagged_calls"]) == (sum(n >= FIRST for n in made.values()), made[THIEF])
    assert (about["first"], about["last"]) == (calls[0].time, calls[-1].time)
    assert about["from"] == "2001-09-09 01:46 UTC"
    assert about["items_asked"] == len({int(call.history[-1]) for call in calls})
    assert about["items_shown"] == len({int(item) for call in calls for item in call.listed})
    for name, values in (
        ("history_lengths", [len(call.history) for call in calls]),
        ("list_lengths", [len(call.listed) for call in calls]),
        ("calls_per_account", list(made.values())),
    ):
        middle = sorted(values)[(len(values) - 1) // 2]
        assert about[name] == {"least": min(values), "median": middle, "most": max(values)}


@pytest.mark.parametrize("kind", ["others", "flagged"])
def test_distributions_are_those_of_each_kind_of_account(found: Numbers, calls: Calls, kind: str) -> None:
    mine = of(calls, kind)
    edges = np.linspace(calls[0].time, calls[-1].time, SLOTS + 1)
    assert found["times"][kind] == np.histogram([call.time for call in mine], edges)[0].tolist()
    lengths = Counter(len(call.history) for call in mine)
    assert found["lengths"][kind] == summed(lengths, found["lengths"]["buckets"])
    ranks = Counter(rank for name, rank in picked(calls) if (name == THIEF) == (kind == "flagged"))
    *names, absent = found["places"]["buckets"]
    assert found["places"][kind] == [*summed(ranks, names), ranks[0]]
    assert absent == "not listed"
    assert ranks[1] > 0 or kind == "flagged"
    for what, items in (
        ("asked by", [int(call.history[-1]) for call in mine]),
        ("shown to", [int(item) for call in mine for item in call.listed]),
    ):
        counts = sorted(Counter(items).values(), reverse=True)
        curve = found["popularity"][f"{what} {kind}"]
        assert [place for place, _ in curve] == [
            *(n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n < len(counts)),
            len(counts),
        ]
        assert [share for _, share in curve] == pytest.approx([sum(counts[:n]) / len(items) for n, _ in curve])


def test_coverage_counts_different_items(found: Numbers, calls: Calls) -> None:
    mine: defaultdict[str, Calls] = defaultdict(list)
    for call in calls:
        mine[call.account].append(call)

    def covered(name: str, made: int) -> tuple[int, int]:
        first = mine[name][:made]
        return len({i for c in first for i in c.history.tolist()}), len({i for c in first for i in c.listed.tolist()})

    (thief,) = found["coverage"]["listed"]
    assert [calls for calls, _, _ in thief["points"]] == [1, 2, 5, 10, 20, 50, 100, 200]
    assert all(covered(THIEF, made) == (sent, shown) for made, sent, shown in thief["points"])
    busiest = sorted((name for name in mine if name != THIEF), key=lambda name: -len(mine[name]))
    assert [each["points"][-1] for each in found["coverage"]["busiest"]] == [
        (len(mine[name]), *covered(name, len(mine[name]))) for name in busiest[:3]
    ]
    assert found["coverage"]["others"] == len(busiest) - 3
    for row in found["coverage"]["band"]:
        reached = [covered(name, row["calls"]) for name in busiest[3:] if len(mine[name]) >= row["calls"]]
        assert row["accounts"] == len(reached) >= 5
        sent, shown = np.quantile(np.array(reached), [0.05, 0.5, 0.95], axis=0).T
        assert (row["sent"], row["shown"]) == (sent.tolist(), shown.tolist())


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_the_band_holds_nine_in_ten_of_the_accounts(widths: list[int]) -> None:
    accounts = [Coverage() for _ in widths]
    for account, width in zip(accounts, widths, strict=True):
        account.add(range(width), range(2 * width))
    rows = numbers.band(accounts)
    assert len(rows) == (len(widths) >= 5)
    for row in rows:
        assert row["sent"] == np.quantile(widths, [0.05, 0.5, 0.95]).tolist()
        assert row["shown"] == np.quantile(2 * np.array(widths), [0.05, 0.5, 0.95]).tolist()


def test_accounts_are_flagged_as_the_guard_would(found: Numbers, calls: Calls, calibration: Calibration) -> None:
    monitor, made, alarms, highest = calibration.monitor(), Counter[str](), dict[str, int](), dict[str, float]()
    for call in calls:
        judged = monitor.observe(call.account, call.history, call.listed, call.time)
        made[call.account] += 1
        highest[call.account] = max(highest.get(call.account, 0.0), judged.score)
        if judged.alarm:
            alarms.setdefault(call.account, made[call.account])
    (row,) = found["listed"]
    assert {row["account"]: row["first_alarm"]} == alarms == {THIEF: alarms[THIEF]}
    assert (row["number"], row["score"], row["calls"]) == (1, highest[THIEF], 200)
    assert {reason["feature"] for reason in row["reasons"]} & {"listed", "plausible"}
    assert all(reason["words"] == FEATURES[reason["feature"]] for reason in row["reasons"])
    points = found["points"]["accounts"]
    assert sorted(each["score"] for each in points) == sorted(
        score for name, score in highest.items() if made[name] >= FIRST
    )
    threshold = found["calibration"]["threshold"]
    assert all(each["flagged"] == (each["score"] > threshold) for each in points)
    assert [each["number"] for each in points if each["flagged"]] == [1]


def test_without_a_calibration_accounts_are_ranked_by_their_distance_from_the_log(
    log: Path, calls: Calls, tmp_path: Path
) -> None:
    found = analyse(log=log, out=tmp_path / "report")
    watch, latest = Watch(NOTHING, POINTS[-1]), dict[str, Any]()
    for call in calls:
        record = watch.observe(call.account, call.history, call.listed, call.time)
        if due(int(record["calls"])):
            latest[call.account] = features(record)
    values, rests = (np.array(part) for part in zip(*latest.values(), strict=True))
    scaled = np.where(rests > 0, compared(values), np.nan)
    scaled[:, list(FEATURES).index("pace")] = np.nan
    told = ~np.isnan(scaled).all(axis=0)
    off = np.zeros_like(scaled)
    off[:, told] = np.nan_to_num(scaled[:, told] - np.nanmean(scaled[:, told], axis=0))
    covariance = off.T @ off / len(off)
    scores = {
        name: math.sqrt(each @ np.linalg.inv(covariance + np.diag(DOUBT**2 / np.maximum(rest, 1))) @ each)
        for name, each, rest in zip(latest, off, rests, strict=True)
    }
    ranked = sorted(scores, key=lambda name: -scores[name])[:10]
    assert [row["account"] for row in found["listed"]] == ranked
    assert ranked[0] == THIEF
    assert [row["score"] for row in found["listed"]] == pytest.approx([scores[name] for name in ranked])
    spread = off / np.sqrt(np.diag(covariance) + DOUBT**2 / np.maximum(rests, 1))
    across = spread @ np.linalg.svd(spread)[2][:2].T  # either axis may point either way: angles between accounts stay
    wanted = [across[list(scores.values()).index(score)] for score in sorted(scores.values())]
    points = sorted(found["points"]["accounts"], key=lambda each: each["score"])
    assert [math.cos(each["angle"] - points[0]["angle"]) for each in points] == pytest.approx(
        [each @ wanted[0] / np.linalg.norm(each) / np.linalg.norm(wanted[0]) for each in wanted]
    )
    assert found["calibration"] is None
    assert all(row["first_alarm"] is None for row in found["listed"])
    assert not any(each["flagged"] for each in found["points"]["accounts"])
    assert not any(found["times"]["flagged"])


def test_directions_are_the_main_axes(found: Numbers) -> None:
    angles = {arrow["feature"]: arrow["angle"] for arrow in found["points"]["arrows"]}
    assert len(angles) == 4
    thief = next(each for each in found["points"]["accounts"] if each["flagged"])
    assert math.cos(thief["angle"] - angles["listed"]) < 0  # it takes less of what it is offered


def test_hashed_items_change_no_count(
    found: Numbers, logged: Logged, calls: Calls, calibrated: Path, tmp_path: Path
) -> None:
    hashed = [replace(call, history=call.history * 7919 + 2**52, listed=call.listed * 7919 + 2**52) for call in calls]
    other = analyse(log=logged(hashed), out=tmp_path / "other")
    assert all(
        other["about"][key] == found["about"][key] for key in found["about"] if "flagged" not in key and key != "files"
    )
    for kind in ("lengths", "places"):
        assert np.add(found[kind]["others"], found[kind]["flagged"]).tolist() == other[kind]["others"]
    fits = analyse(log=logged(hashed), calibration=calibrated, out=tmp_path / "third")
    assert (found["calibration"]["known"], fits["calibration"]["known"]) == (1.0, 0.0)


@given(st.dictionaries(st.integers(0, 10**6), st.integers(1, 100), max_size=20))
def test_buckets_sum_what_their_names_say(counted: dict[int, int]) -> None:
    longest = max([1, *counted])
    found = buckets(counted, longest)
    assert list(found.values()) == summed(Counter(counted), list(found))
    assert sum(found.values()) == sum(times for number, times in counted.items() if number)
    bounds = [(int(name.split("-")[0]), int(name.split("-")[-1])) for name in found]
    assert bounds[0] == (1, 1)
    assert all(low == high + 1 for (_, high), (low, _) in pairwise(bounds))
    assert bounds[-1][0] <= longest <= bounds[-1][1]


def test_memory_does_not_grow_with_the_calls_of_an_account(world: Any, calibration: Calibration) -> None:
    w = world(12)
    people = w.people(10)

    def grown(times: int) -> int:
        log = people * times
        tracemalloc.start()
        found = survey(log, calibration, untold)
        count(log, found, set(), found.accounts, untold)
        now, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return now

    grown(1)
    assert grown(12) < grown(3) + 50_000


def test_progress_is_told_in_both_readings(
    monkeypatch: pytest.MonkeyPatch, log: Path, calls: Calls, tmp_path: Path
) -> None:
    monkeypatch.setattr(surveying, "EVERY", 500)
    monkeypatch.setattr("gro.service.analysis.counts.EVERY", 500)
    told: list[int] = []
    analyse(told.append, log=log, out=tmp_path / "report")
    assert told == [*range(500, len(calls) + 1, 500)] * 2
