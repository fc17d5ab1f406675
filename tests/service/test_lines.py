"""Lines: what may stand in one, and the thread that writes them, against real files, pipes and full disks."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.service.lines import LONGEST, Lines, encode, text

TEXT = st.text(st.characters(codec=None), max_size=50)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def said(lost: int) -> bytes:
    return b'{"lost":%d}' % lost


def until(holds: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.005)


@given(VALUES)
def test_whatever_is_said_is_one_line_of_printable_ascii_that_any_reader_takes(value: Any) -> None:
    line = encode(value)
    assert all(0x20 <= byte < 0x7F for byte in line)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.dumps(json.loads(line, parse_constant=refuse), ensure_ascii=False).encode("utf-8")  # no lone surrogate is left


@given(TEXT)
def test_text_without_surrogates_is_kept(value: str) -> None:
    clean = not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
    assert (text(value) == value) == clean
    assert json.loads(encode(value)) == text(value)


def test_long_strings_are_cut_and_numbers_unknown_to_json_are_null() -> None:
    assert text("a" * LONGEST) == "a" * LONGEST
    assert text("a" * 10**7) == "a" * (LONGEST - 1) + "…"
    assert json.loads(encode([math.nan, math.inf, 1.5, ("b",), Path("c")])) == [None, None, 1.5, ["b"], "c"]


def test_lines_come_in_order_and_closing_writes_them_all(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "log", report=said)
    for number in range(1000):
        lines.write(b"%d" % number)
    lines.close()
    assert (tmp_path / "log").read_text().split() == [str(number) for number in range(1000)]
    assert lines.lost == 0
    lines.write(b"late")
    assert lines.lost == 1


def test_what_finds_the_queue_full_is_counted_and_reported() -> None:
    reader, writer = os.pipe()  # nobody reads: the thread is stuck once the pipe is full
    told: list[int] = []
    lines = Lines(writer, report=said, lost=told.append, most=100_000)
    line = b"x" * 999
    begun = time.monotonic()
    for _ in range(500):
        lines.write(line)
    assert time.monotonic() - begun < 1.0, "a writer waited for the pipe"
    assert lines.lost == sum(told) > 300
    with os.fdopen(reader, "rb") as file:
        drained: list[bytes] = []
        thread = threading.Thread(target=lambda: drained.extend(file))
        thread.start()
        assert lines.flush()
        lost = lines.lost
        lines.close()
        os.close(writer)
        thread.join()
    assert drained.count(line + b"\n") == 500 - lost
    assert sum(json.loads(one)["lost"] for one in drained if one.startswith(b"{")) == lost


def test_closing_gives_up_on_a_pipe_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    lines = Lines(writer, report=said)
    for _ in range(200):
        lines.write(b"x" * 999)
    assert not lines.flush(0.05)
    lines.close(0.05)
    assert 100 < lines.lost < 200
    os.close(reader)  # the thread gets an error and ends
    until(lambda: lines.flush(0.0))
    os.close(writer)


def test_a_full_device_loses_lines_and_says_so() -> None:
    told: list[int] = []
    lines = Lines(Path("/dev/full"), report=said, lost=told.append)
    for _ in range(3):
        lines.write(b"{}")
    assert lines.flush()
    lines.close()
    assert lines.lost == sum(told) == 3


def test_a_line_cut_off_by_a_full_disk_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    program = """
import json, resource, sys
from pathlib import Path
from gro.service.lines import Lines

lines = Lines(Path(sys.argv[1]), report=lambda lost: json.dumps({"lost": lost}).encode())
resource.setrlimit(resource.RLIMIT_FSIZE, (250, resource.RLIM_INFINITY))
for number in range(3):
    lines.write(json.dumps({"number": number, "much": "x" * 80}).encode())
lines.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
lines.write(b'{"number": 3}')
lines.close()
"""
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)
    first, second, torn, after, report = path.read_text().splitlines()
    assert [json.loads(line)["number"] for line in (first, second, after)] == [0, 1, 3]
    assert torn.startswith('{"number": 2')
    assert json.loads(report) == {"lost": 1}


@pytest.mark.parametrize("rotate", [lambda path: path.rename(f"{path}.1"), Path.unlink], ids=["renamed", "removed"])
def test_a_file_that_was_rotated_is_begun_anew(tmp_path: Path, rotate: Any) -> None:
    path = tmp_path / "log"
    lines = Lines(path, report=said)
    lines.write(b"before")
    assert lines.flush()
    rotate(path)
    lines.write(b"after")
    lines.close()
    assert path.read_text() == "after\n"
    assert lines.lost == 0


def test_a_file_that_a_crash_left_within_a_line_is_gone_on_with_on_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'whole\n{"to')
    lines = Lines(path, report=said)
    lines.write(b"{}")
    lines.close()
    assert path.read_bytes() == b'whole\n{"to\n{}\n'


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "log", report=said)

    def write(name: bytes) -> None:
        for _ in range(300):
            lines.write(name * 100)

    threads = [threading.Thread(target=write, args=(name,)) for name in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines.close()
    found = (tmp_path / "log").read_text().split()
    assert sorted(found) == ["a" * 100] * 300 + ["b" * 100] * 300 + ["c" * 100] * 300


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/log: cannot be written: no such file or directory"):
        Lines(tmp_path / "nowhere" / "log", report=said)
