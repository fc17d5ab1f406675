"""The chain: whatever is done to the lines of a log by who has no key is found."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gro.errors import ConfigError, DataError
from gro.service.audit import AuditLog, AuditSettings
from gro.service.chain import Checkpoint, chain_key, seal, verify

KEY, OTHER = b"k" * 32, b"o" * 32
AGAIN = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example overwrites its file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def opened(path: Path) -> AuditLog:
    return AuditLog(AuditSettings(path=path, key_file=path), KEY, clock=lambda: 1.5)


def wrong(path: Path, key: bytes = KEY, checkpoint: Checkpoint | None = None) -> str:
    with pytest.raises(DataError) as error:
        verify(path, key, checkpoint)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Checkpoint]:
    """A log of one file, and its head."""
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    with opened(path) as log:
        for number in range(6):
            log.append({"number": number, "text": "é\n"})
        return path.read_bytes(), log.head


def test_the_format_is_the_documented_one(whole: tuple[bytes, Checkpoint]) -> None:
    key, previous = hmac.digest(KEY, b"gro audit log\x01", "sha256"), "0" * 64
    for seq, line in enumerate(whole[0].splitlines(), 1):
        entry = json.loads(line)
        assert (entry["seq"], entry["previous"]) == (seq, previous)
        previous = hmac.new(key, line[: line.rindex(b',"hash":')], hashlib.sha256).hexdigest()
        assert entry["hash"] == previous


@AGAIN
@given(data=st.data())
def test_any_change_of_any_byte_is_found(whole: tuple[bytes, Checkpoint], tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(whole[0])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "audit.jsonl").write_bytes(content)
    number = whole[0][:at].count(b"\n") + 1
    assert f"audit.jsonl:{number}: the line " in wrong(tmp_path / "audit.jsonl")


def test_every_byte_of_a_line_counts(whole: tuple[bytes, Checkpoint], tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    start = whole[0].index(b"\n") + 1
    for at in range(start, whole[0].index(b"\n", start) + 1):
        content = bytearray(whole[0])
        content[at] ^= 1 << at % 8
        path.write_bytes(content)
        assert ":2: " in wrong(path)


@AGAIN
@given(data=st.data())
def test_any_other_order_or_choice_of_lines_is_found(
    whole: tuple[bytes, Checkpoint], tmp_path: Path, data: st.DataObject
) -> None:
    content, head = whole
    lines = content.splitlines(keepends=True)
    chosen = data.draw(st.lists(st.sampled_from(lines), max_size=9) | st.permutations(lines))
    assume(chosen != lines)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(chosen))
    assert wrong(path, checkpoint=head)
    if chosen != lines[: len(chosen)]:
        assert wrong(path)  # no checkpoint is needed for what is not a mere cut at the end


@AGAIN
@given(data=st.data())
def test_a_cut_at_the_end_is_found_by_a_checkpoint(
    whole: tuple[bytes, Checkpoint], tmp_path: Path, data: st.DataObject
) -> None:
    content, head = whole
    size = data.draw(st.integers(1, len(content) - 1))
    path = tmp_path / "audit.jsonl"
    path.write_bytes(content[:size])
    found = wrong(path, checkpoint=head)
    cut = not content[:size].endswith(b"\n")
    assert ("the line is cut off" if cut else "the end was cut off") in found


@AGAIN
@given(st.binary(min_size=1, max_size=300))
def test_what_is_added_without_the_key_is_found(whole: tuple[bytes, Checkpoint], tmp_path: Path, added: bytes) -> None:
    (tmp_path / "audit.jsonl").write_bytes(whole[0] + added)
    assert "audit.jsonl:8: " in wrong(tmp_path / "audit.jsonl")


def test_what_is_added_with_another_key_is_found(whole: tuple[bytes, Checkpoint], tmp_path: Path) -> None:
    line, _ = seal(chain_key(OTHER), whole[1], 2.0, "event", {})
    (tmp_path / "audit.jsonl").write_bytes(whole[0] + line)
    assert wrong(tmp_path / "audit.jsonl").endswith("8: the line was altered, or written with another key")
    assert wrong(tmp_path / "audit.jsonl", OTHER).endswith("1: the line was altered, or written with another key")


def test_a_log_rewritten_by_who_has_the_key_is_found_by_a_checkpoint(
    whole: tuple[bytes, Checkpoint], path: Path
) -> None:
    with opened(path) as log:
        for _ in range(10):
            log.append({"forged": True})
    assert verify(path, KEY).entries == 11
    assert "entry 7 is not the one of the checkpoint: the log was rewritten" in wrong(path, checkpoint=whole[1])


def test_older_checkpoints_hold_for_longer_logs(path: Path) -> None:
    with opened(path) as log:
        checkpoints = [log.head, *(log.append({}) for _ in range(5))]
    for checkpoint in checkpoints:
        assert verify(path, KEY, checkpoint).head == log.head


@pytest.mark.parametrize("content", [None, b""])
def test_no_log_is_no_verified_log(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    assert ("no audit log is there" if content is None else "holds no entry") in wrong(path)


def test_verifying_takes_memory_that_does_not_grow(path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from gro.errors import DataError
from gro.service.chain import START, chain_key, seal, verify

key, path, kind, mib = b"k" * 32, Path(sys.argv[1]), sys.argv[2], 1 << 20
with path.open("wb") as file:
    line, head = seal(chain_key(key), START, 1.0, "note", {"begins": path.name})
    file.write(line)
    for _ in range(1000 if kind == "entries" else 0):
        line, head = seal(chain_key(key), head, 1.0, "event", {"a": ["x" * 1000] * 50})
        file.write(line)
    file.write(b"x" * (50 * mib if kind == "line" else 0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    verify(path, key)
except DataError as error:
    print(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert path.stat().st_size >= 50_000_000 and grown < 10_000, grown
"""
    for kind, told in (("entries", ""), ("line", "longer than 1,048,576 bytes")):
        ran = subprocess.run(
            [sys.executable, "-c", program, str(path), kind], capture_output=True, check=True, text=True, timeout=60
        )
        assert told in ran.stdout


@given(st.integers(0, 10**15), st.binary(min_size=32, max_size=32))
def test_checkpoints_are_printed_and_read(seq: int, digest: bytes) -> None:
    checkpoint = Checkpoint(seq, digest.hex())
    assert Checkpoint.parse(f" {checkpoint}\n") == checkpoint


@pytest.mark.parametrize("text", ["", "5", "5:", ":" + "0" * 64, "5:" + "0" * 63, "5:" + "g" * 64, "-5:" + "0" * 64])
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be SEQ:HASH"):
        Checkpoint.parse(text)
