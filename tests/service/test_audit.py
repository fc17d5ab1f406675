"""The audit log: what is done to its files is found, what happens to its process or disk loses nothing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gro.errors import ConfigError, DataError
from gro.service.audit import AuditLog, AuditSettings, AuditUnavailable
from gro.service.chain import LONGEST, Checkpoint, Entry, chain_key, entries, seal, verify

KEY = b"k" * 32
Make = Callable[..., AuditLog]


def configured(path: Path, **values: Any) -> AuditSettings:
    return AuditSettings.make({"path": path, "key_file": path.with_name("key"), **values})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def make(path: Path) -> Iterator[Make]:
    """Open a log; all that were opened are closed at the end."""
    opened: list[AuditLog] = []

    def make(key: bytes = KEY, failed: Callable[[Exception], None] = lambda error: None, **values: Any) -> AuditLog:
        clock = count(1000.0)
        opened.append(AuditLog(configured(path, **values), key, clock=lambda: next(clock), failed=failed))
        return opened[-1]

    yield make
    for log in opened:
        log.close()


def wrong(path: Path, key: bytes = KEY, checkpoint: Checkpoint | None = None) -> str:
    with pytest.raises(DataError) as error:
        verify(path, key, checkpoint)
    assert "\n" not in str(error.value)
    return str(error.value)


def listed(path: Path) -> list[Entry]:
    return list(entries(path, KEY))


def notes(path: Path, name: str) -> list[Any]:
    return [entry.note[name] for entry in listed(path) if entry.note and name in entry.note]


# What is written


def test_what_is_appended_is_read_back(make: Make, path: Path) -> None:
    log = make()
    events: list[dict[str, Any]] = [
        {"event": {"action": "release"}, "user": {"id": "a\nb\x1b[31m\ud800"}},
        {},
        {"score": float("inf")},
    ]
    kept = [log.append(event) for event in events]
    begins, *rest = listed(path)
    assert begins.seq == 1
    assert begins.note == {"begins": "audit.jsonl"}
    assert [entry.checkpoint for entry in rest] == kept
    assert [entry.event for entry in rest] == [
        {"event": {"action": "release"}, "user": {"id": "a\nb\x1b[31m\ufffd"}},
        {},
        {"score": None},
    ]
    assert [entry.time for entry in rest] == [1001.0, 1002.0, 1003.0]
    assert verify(path, KEY, log.head).entries == len(path.read_bytes().splitlines()) == 4
    assert path.stat().st_mode & 0o027 == 0


def test_a_log_goes_on_where_it_was_left(make: Make, path: Path) -> None:
    log = make()
    log.append({"n": 1})
    log.close()
    make().append({"n": 2})
    assert [entry.event for entry in listed(path)] == [None, {"n": 1}, {"n": 2}]


def test_an_entry_is_on_the_disk_before_append_returns(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, synced = make(), list[int]()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    log.append({})
    assert synced == [path.stat().st_size]


def test_entries_are_on_the_disk_after_the_interval(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    log = make(fsync_every=0.05)
    log.sync()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.set())
    log.append({})
    assert not synced.is_set()
    assert synced.wait(5)


# Rotation


def rotated(path: Path) -> list[Path]:
    return sorted(path.parent.glob("audit-*.jsonl"))


@pytest.fixture
def long(make: Make, path: Path) -> AuditLog:
    """A log of several files."""
    log = make(max_bytes=4096)
    for number in range(80):
        log.append({"number": number})
    assert len(rotated(path)) >= 3
    return log


def test_a_rotated_log_is_one_chain(long: AuditLog, path: Path) -> None:
    assert verify(path, KEY, long.head).first == 1
    assert [entry.event["number"] for entry in listed(path) if entry.event] == list(range(80))
    last = json.loads(rotated(path)[-1].read_bytes().splitlines()[-1])
    first = json.loads(path.read_bytes().splitlines()[0])
    assert (first["previous"], first["seq"]) == (last["hash"], last["seq"] + 1)
    assert all(file.stat().st_size < 4096 + 1024 for file in rotated(path))


def test_a_rotated_log_goes_on_after_a_restart(long: AuditLog, make: Make, path: Path) -> None:
    long.close()
    log = make(max_bytes=4096)
    log.append({"number": 80})
    assert verify(path, KEY, log.head).first == 1


def test_files_removed_by_retention_are_told(long: AuditLog, path: Path) -> None:
    kept = json.loads(rotated(path)[1].read_bytes().splitlines()[0])["seq"]
    rotated(path)[0].unlink()
    assert verify(path, KEY, long.head).first == kept
    assert "earlier files are missing" in wrong(path, checkpoint=Checkpoint(2, "0" * 64))


def test_files_removed_from_the_middle_or_the_end_are_found(long: AuditLog, path: Path) -> None:
    gone = rotated(path)[1]
    content = gone.read_bytes()
    gone.unlink()
    assert "lines were removed or moved" in wrong(path)
    gone.write_bytes(content)
    path.unlink()
    assert "the end was cut off" in wrong(path, checkpoint=long.head)


def test_lines_removed_from_the_beginning_of_a_file_are_found(long: AuditLog, path: Path) -> None:
    first = rotated(path)[0]
    first.write_bytes(b"".join(first.read_bytes().splitlines(keepends=True)[2:]))
    assert f"{first.name}:1: entry 3 is not where the file begins" in wrong(path)


def test_a_crash_between_rotating_and_beginning_a_file_loses_nothing(long: AuditLog, make: Make, path: Path) -> None:
    long.close()
    path.rename(path.with_name(f"audit-{long.head.seq:012d}.jsonl"))
    assert verify(path, KEY).head == long.head
    log = make(max_bytes=4096)
    assert verify(path, KEY, long.head).head == log.head
    assert log.head.seq == long.head.seq + 1


def test_a_log_moved_away_while_it_is_written_is_begun_anew_and_goes_on(make: Make, path: Path) -> None:
    log = make()
    log.append({})
    path.rename(path.with_suffix(".1"))
    log.append({"after": True})
    assert [entry.seq for entry in listed(path)] == [3, 4]
    assert verify(path, KEY).first == 3


# Crashes


@pytest.mark.parametrize("kept", [1, 50, -2, -1])
def test_a_torn_last_line_is_put_aside_and_said(make: Make, path: Path, kept: int) -> None:
    log = make()
    log.append({"n": 1})
    log.close()
    before = path.read_bytes()
    line, _ = seal(chain_key(KEY), log.head, 5.0, "event", {"n": 2})
    torn = line[:kept]
    path.write_bytes(before + torn)
    assert "the line is cut off" in wrong(path)
    make().append({"n": 3})
    assert path.read_bytes().startswith(before)
    assert [entry.event for entry in listed(path) if entry.event] == [{"n": 1}, {"n": 3}]
    [note] = notes(path, "torn")
    assert note == {"file": "audit-000000000003.torn", "bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
    assert path.with_name(note["file"]).read_bytes() == torn


def test_a_log_torn_within_its_first_line_begins_anew(make: Make, path: Path) -> None:
    path.write_bytes(b'{"seq":1,"ti')
    make().append({})
    begins, _ = listed(path)
    assert begins.note is not None
    assert set(begins.note) == {"begins", "torn"}


def test_a_crash_after_putting_a_torn_line_aside_is_said_all_the_same(make: Make, path: Path) -> None:
    make().close()
    path.with_name("audit-000000000002.torn").write_bytes(b"{")
    make().append({})
    assert [note["bytes"] for note in notes(path, "torn")] == [1]


def test_another_process_that_writes_puts_a_torn_line_aside_too(make: Make, path: Path) -> None:
    log = make()
    with path.open("ab") as file:
        file.write(b'{"seq":2,')
    log.append({})
    assert len(notes(path, "torn")) == 1


def test_a_last_line_that_was_altered_stops_the_log_from_opening(make: Make, path: Path) -> None:
    make().append({"n": 1})
    path.write_bytes(path.read_bytes().replace(b'"n":1', b'"n":2'))
    with pytest.raises(DataError, match=r"the last line was altered, or written with another key; verify the log"):
        make()


def test_an_end_longer_than_any_line_stops_the_log_from_opening(make: Make, path: Path) -> None:
    make().append({})
    with path.open("ab") as file:
        file.write(b"x" * (2 * LONGEST + 1))
    with pytest.raises(DataError, match=r"the last line is longer than 1,048,576 bytes"):
        make()


def test_a_log_that_was_cut_while_it_was_written_cannot_be_verified_there(make: Make, path: Path) -> None:
    log = make()
    for number in range(5):
        log.append({"n": number})
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(content[:3]))
    log.append({"n": 5})
    assert "audit.jsonl:4: entry 7 follows entry 3: lines were removed or moved" in wrong(path)


WRITER = """
import sys
from pathlib import Path
from gro.service.audit import AuditLog, AuditSettings

path, name, most, every = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
settings = AuditSettings(path=path, key_file=path, max_bytes=20_000, fsync_every=every)
log = AuditLog(settings, b"k" * 32, clock=lambda: 1.0)
for number in range(most):
    log.append({"name": name, "number": number, "much": ["x" * 500] * 20})
    print(number, flush=True)
log.close()
"""


def writing(path: Path, name: str, most: int, every: float = 5.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(most), str(every)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_and_threads_write_one_chain(make: Make, path: Path) -> None:
    log = make(max_bytes=20_000)
    others = [writing(path, name, 60) for name in ("a", "b")]
    threads = [threading.Thread(target=lambda: [log.append({"name": "c"}) for _ in range(30)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.communicate(timeout=60)
        assert other.returncode == 0
    assert verify(path, KEY).first == 1
    events = [entry.event for entry in listed(path) if entry.event]
    for name in ("a", "b"):
        assert [event["number"] for event in events if event["name"] == name] == list(range(60))
    assert len(events) == 180


@pytest.mark.parametrize("every", [0.0, 5.0])
def test_a_killed_process_loses_nothing_that_it_was_told_is_written(make: Make, path: Path, every: float) -> None:
    confirmed: dict[str, int] = {}
    for run in range(2):
        process = writing(path, str(run), 100_000, every)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(5)]
        time.sleep(0.01 * run)
        process.send_signal(signal.SIGKILL)
        said += process.communicate()[0].splitlines()
        confirmed[str(run)] = int(said[-1])
    log = make()
    verify(path, KEY, log.head)
    events = [entry.event for entry in listed(path) if entry.event]
    for name, number in confirmed.items():
        written = [event["number"] for event in events if event["name"] == name]
        assert written == list(range(len(written)))
        assert len(written) >= number + 1


# Failures


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], check=False, stderr=subprocess.DEVNULL
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(log: AuditLog) -> int:
    """Append until there is no room, and return how often that worked."""
    for number in range(10_000):
        try:
            log.append({"number": number, "much": ["x" * 300] * 3})
        except AuditUnavailable:
            return number
    raise AssertionError("there is always room")


def check_full(log: AuditLog, path: Path, make_room: Callable[[], object]) -> None:
    written = fill(log)
    assert written > 5
    for _ in range(2):
        with pytest.raises(AuditUnavailable) as refused:
            log.append({"number": -1, "much": ["x" * 300] * 30})
        assert (refused.value.status, refused.value.code) == (503, "audit_unavailable")
        assert isinstance(refused.value.__cause__, OSError)
    assert verify(path, KEY, log.head).entries == written + 1
    make_room()
    log.append({"number": written})
    assert [entry.event["number"] for entry in listed(path) if entry.event] == list(range(written + 1))
    assert notes(path, "missed") == [3]


def test_a_full_disk_denies_and_loses_nothing(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 32_768)
    path = small_disk / "audit.jsonl"
    with AuditLog(configured(path), KEY, clock=lambda: 1.0) as log:
        check_full(log, path, ballast.unlink)


def test_a_file_that_may_not_grow_denies_and_loses_nothing(make: Make, path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = make()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        check_full(log, path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_log_may_let_requests_go_on_and_notes_what_it_missed(make: Make, path: Path) -> None:
    told: list[Exception] = []
    log = make(failed=told.append, when_audit_fails="continue")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
    try:
        assert [log.append({"lost": True}) for _ in range(3)] == [None] * 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.append({"lost": False}) == log.head
    assert notes(path, "missed") == [3]
    assert [entry.event for entry in listed(path) if entry.event] == [{"lost": False}]
    assert [type(error) for error in told] == [OSError] * 3


def test_an_entry_that_is_not_confirmed_to_be_on_the_disk_is_refused(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: os.write(-1, b""))  # an error of the disk
        with pytest.raises(AuditUnavailable):
            log.append({"n": 1})
    log.append({"n": 2})
    assert verify(path, KEY).head == log.head
    assert notes(path, "missed") == [1]


def test_an_entry_too_long_to_be_read_back_is_refused(make: Make, path: Path) -> None:
    log = make()
    with pytest.raises(AuditUnavailable) as refused:
        log.append({"much": ["x" * 1000] * (LONGEST // 1000)})
    assert "an entry of 1,0" in str(refused.value.__cause__)
    log.append({"much": ["x" * 1000] * 1000})
    assert verify(path, KEY, log.head).entries == 3


def test_a_lock_that_is_never_let_go_denies_instead_of_waiting(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gro.service.audit.PATIENCE", 50)
    log = make()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(AuditUnavailable) as refused:
            log.append({})
        assert isinstance(refused.value.__cause__, TimeoutError)
    assert log.append({})


def test_a_log_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"audit log .*nowhere/audit.jsonl: cannot be written: no such file"):
        AuditLog(configured(tmp_path / "nowhere" / "audit.jsonl"), KEY, clock=lambda: 1.0)
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match=r"cannot be written: no space left on device"):
        AuditLog(configured(tmp_path / "full.jsonl"), KEY, clock=lambda: 1.0)


def test_verifying_does_not_disturb_who_writes(path: Path) -> None:
    process = writing(path, "a", 80)
    while process.poll() is None:
        if path.exists() and path.stat().st_size:
            verify(path, KEY)
    process.communicate()
    assert process.returncode == 0
    assert len([entry for entry in listed(path) if entry.event]) == 80
