"""The query log: what is written is read back, what is malformed is named, what is replayed grows as users do."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gro.errors import ConfigError, DataError
from gro.service.monitor import calibration
from gro.service.privacy import Privacy, PrivacySettings
from gro.service.querylog import MOST_BYTES, Call, QueryLog, QueryLogWriter, replayed

GIVEN = Privacy(PrivacySettings(items="given"))
CALL = {"time": 1.5, "account": "a", "history": [1, 2], "list": [3]}
IDS = st.lists(st.integers(1, 2**63 - 1), max_size=8)
CALLS = st.builds(
    lambda time, account, history, listed: Call(time, account, np.array(history, np.int64), np.array(listed, np.int64)),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    IDS,
    IDS,
)


def plain(call: Call) -> tuple[float, str, list[int], list[int]]:
    return call.time, call.account, call.history.tolist(), call.listed.tolist()


def wrong(path: Path) -> str:
    with pytest.raises(DataError) as error:
        list(QueryLog(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def read(path: Path) -> str:
    """Read a file and return the error, or else its name."""
    try:
        assert all(isinstance(call, Call) for call in QueryLog(path))
    except DataError as error:
        return str(error)
    return str(path)


def report(lost: int) -> None:
    raise AssertionError(lost)


@settings(max_examples=30)
@given(calls=st.lists(CALLS, max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, calls: list[Call]) -> None:
    path = tmp_path_factory.mktemp("log") / "calls.jsonl"
    log = QueryLogWriter(path, privacy=GIVEN, report=report)
    for call in calls:
        log.write(call)
    log.close()
    read = QueryLog(path)
    assert [plain(call) for call in read] == [plain(call) for call in calls]
    assert [plain(call) for call in read] == [plain(call) for call in calls], "it is read again and again"
    compressed = path.with_suffix(".gz")
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    assert [plain(call) for call in QueryLog(path, compressed)] == 2 * [plain(call) for call in calls]


def test_a_call_is_what_the_monitor_is_calibrated_on(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    calls = [{**CALL, "history": [1, 2]}, {**CALL, "history": [1, 2, 3]}, {**CALL, "account": "b"}]
    path.write_text("".join(json.dumps(call) + "\n" for call in calls))
    found = {account: items.tolist() for account, items in calibration.sequences(QueryLog(path))}
    assert found == {"a": [1, 2, 3], "b": [1, 2]}
    assert all(call.history.dtype == call.listed.dtype == np.int64 for call in QueryLog(path))


def test_items_are_hashed_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with pytest.raises(ConfigError, match=r"items of the query log are hashed, which takes a secret"):
        QueryLogWriter(path, privacy=Privacy(PrivacySettings()), report=report)
    private = Privacy(PrivacySettings(accounts="pseudonym"), b"k" * 32)
    log = QueryLogWriter(path, privacy=private, report=report)
    for account in ("alice", "bob"):
        log.write(Call(1.0, account, np.array([7, 8, 7]), np.array([8, 9])))
    log.close()
    one, other = QueryLog(path)
    assert one.account == private.account("alice") != other.account
    assert one.history.tolist() == other.history.tolist()
    first, second, third = one.history.tolist()
    assert first == third != second == one.listed[0]
    assert "alice" not in path.read_text()
    assert not {7, 8, 9} & {*one.history.tolist(), *one.listed.tolist()}


def test_calls_that_are_lost_are_told() -> None:
    told: list[int] = []
    log = QueryLogWriter(Path("/dev/full"), privacy=GIVEN, report=report, lost=told.append)
    for call in replayed([1, 1], [1, 2], [0, 1], lambda histories: [[5]] * len(histories), 1):
        log.write(call)
    log.close()
    assert sum(told) == 2


def test_lost_calls_are_reported_once_one_is_written_and_leave_the_log_whole(tmp_path: Path) -> None:
    path, told = tmp_path / "calls.jsonl", list[int]()
    log = QueryLogWriter(path, privacy=GIVEN, report=told.append)
    many = np.full(450_000, 2**62)  # more than may wait
    call = Call(1.0, "a", np.array([1]), np.array([2]))
    log.write(Call(1.0, "a", many, many))
    log.write(call)
    log.close()
    assert told == [1]
    assert [plain(one) for one in QueryLog(path)] == [plain(call)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{}", "'time' is missing"),
        ('{"time": 1}', "'account' is missing"),
        ("[]", "input should be an object"),
        ("nonsense", "invalid JSON: expected ident at line 1 column 2"),
        ({**CALL, "time": "1"}, "'time': input should be a valid number"),
        ({**CALL, "time": float("nan")}, "'time': input should be a finite number"),
        ({**CALL, "account": 7}, "'account': input should be a valid string"),
        ({**CALL, "account": ""}, "'account': string should have at least 1 character"),
        ({**CALL, "account": "a" * 1025}, "'account': string should have at most 1024 characters"),
        ({**CALL, "history": [1, 0]}, "'history.1': input should be greater than or equal to 1"),
        ({**CALL, "history": [1.0]}, "'history.0': input should be a valid integer"),
        ({**CALL, "history": [True]}, "'history.0': input should be a valid integer"),
        ({**CALL, "history": 5}, "'history': input should be a valid array"),
        ({**CALL, "list": ["x"]}, "'list.0': input should be a valid integer"),
        ({**CALL, "list": [2**63]}, "'list.0': input should be less than 9223372036854775808"),
        ({**CALL, "lists": []}, "unknown field 'lists'; a call has version, time, account, history and list"),
        ({**CALL, "version": 2}, "'version': input should be 1"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: Any, why: str) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(
        f"{json.dumps(CALL)}\n\n{line if isinstance(line, str) else json.dumps(line)}\n{json.dumps(CALL)}\n"
    )
    calls = iter(QueryLog(path))
    assert plain(next(calls)) == (1.5, "a", [1, 2], [3])
    assert wrong(path) == f"{path}:3: {why}"


@given(st.binary(max_size=200))
def test_no_line_is_more_than_a_call_or_an_error(tmp_path_factory: pytest.TempPathFactory, line: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(line)
    assert read(path).startswith(str(path))


def test_nothing_that_was_sent_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps({**CALL, "account": ["alice"], "list": ["secret"]}))
    assert not {"alice", "secret"} & set(wrong(path).replace("'", " ").split())


def test_a_line_that_is_cut_off_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps(CALL) + "\n" + json.dumps(CALL)[:20])
    assert "the line is cut off: whoever wrote it was stopped" in wrong(path)
    path.write_text(json.dumps(CALL))
    assert len(list(QueryLog(path))) == 1


def test_absurd_lines_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes(json.dumps(CALL).encode() + b"\n" + b"[" * (MOST_BYTES + 1))
    assert wrong(path).endswith("calls.jsonl:2: longer than 10,000,000 bytes")
    path.write_text(json.dumps({**CALL, "history": [1] * 3_000_000}))
    assert len(next(iter(QueryLog(path))).history) == 3_000_000


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl.gz"
    assert wrong(path) == f"{path}: no such file or directory"
    whole = gzip.compress(b"".join(json.dumps({**CALL, "time": time}).encode() + b"\n" for time in range(10_000)))
    path.write_bytes(whole[: len(whole) // 2])
    assert "not a whole gzip file" in wrong(path)
    path.write_bytes(b"\x1f\x8bnonsense")
    assert "not a whole gzip file" in wrong(path)
    path.write_bytes(whole[:1000] + bytes(1000) + whole[1000:])
    assert str(path) in wrong(path)


def test_time_that_goes_backwards_is_left_so(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps({**CALL, "time": time}) + "\n" for time in (3, 1, 2)))
    assert [call.time for call in QueryLog(path)] == [3, 1, 2]


def test_a_log_is_read_in_memory_that_does_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl.gz"
    line = json.dumps({**CALL, "history": list(range(1, 200)), "list": list(range(1, 100))}).encode() + b"\n"
    path.write_bytes(gzip.compress(line * 10_000, 1))
    program = """
import resource, sys
from pathlib import Path
from gro.service.querylog import QueryLog

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(1 for call in QueryLog(Path(sys.argv[1]))) == 10_000
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 10_000, grown
"""
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=120)


def echo(histories: Sequence[Sequence[int]]) -> list[list[int]]:
    """Answer the last item and how many there were, best first."""
    return [[history[-1], len(history), 999] for history in histories]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 50), st.integers(0, 9)), max_size=40))
def test_a_replay_asks_as_the_users_did(rows: list[tuple[int, int, int]]) -> None:
    users, items, times = ([row[column] for row in rows] for column in range(3))
    calls = list(replayed(users, items, times, echo, k=2))
    assert [call.time for call in calls] == sorted(times)
    grown: defaultdict[str, list[int]] = defaultdict(list)
    for (user, item, _), call in zip(sorted(rows, key=lambda row: row[2]), calls, strict=True):
        grown[str(user)].append(item)
        assert call.account == str(user)
        assert call.history.tolist() == grown[str(user)]
        assert call.listed.tolist() == [item, len(grown[str(user)])]


def test_a_replay_asks_many_at_a_time() -> None:
    asked: list[int] = []

    def answer(histories: Sequence[Sequence[int]]) -> list[list[int]]:
        asked.append(len(histories))
        return echo(histories)

    calls = list(replayed(["u"] * 1000, range(1, 1001), range(1000), answer, k=3))
    assert len(calls[-1].history) == 1000
    assert sum(asked) == 1000
    assert len(asked) < 10


def test_what_cannot_be_replayed_is_said() -> None:
    with pytest.raises(DataError, match="2 users, 1 items and 1 times"):
        list(replayed([1, 2], [1], [1], echo, 1))
    with pytest.raises(DataError, match="a list has 3 items; it must have 4 or more"):
        list(replayed([1], [1], [1], echo, 4))
