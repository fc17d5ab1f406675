"""The format of the audit log: lines that are chained by a keyed hash, and the check that none was touched.

A line is one JSON object: ``seq`` from 1, ``time``, ``previous``, then ``event`` (what was logged) or ``note`` (what
the log says of itself), then ``hash``: HMAC-SHA-256 over the bytes of the line before ``,"hash":``, which hold the hash
of the line before. The key is HMAC-SHA-256 of ``gro audit log`` and a byte 1 under the key that was given.

=================================================  =====================================================
who can                                            and what of it :func:`verify` sees
=================================================  =====================================================
change, insert, delete or reorder lines, no key    everything: the first line that is wrong
cut off the end, or remove the newest files        given a :class:`Checkpoint` from beyond the cut
remove the oldest files, as retention does         :attr:`Verified.first` is not 1
use the key (has taken over the guard)             given a checkpoint, whatever lies before it
=================================================  =====================================================

So checkpoints belong to where the guard cannot change them. An unkeyed chain would only tell accidents.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from gro.errors import ConfigError, DataError
from gro.service.keyfile import derived
from gro.service.lines import encode

LONGEST: Final = 1 << 20
"""Bytes of a line at most."""
_HASH: Final = b',"hash":"%s"}'
_SEALED: Final = len(_HASH % (b"0" * 64))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An entry that a log must hold: printed as ``SEQ:HASH``, kept elsewhere, and given to :func:`verify`."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` gives.

        Raises:
            ConfigError: it is not one.
        """
        if not re.fullmatch(r"[0-9]{1,18}:[0-9a-f]{64}", text.strip()):
            raise ConfigError(f"checkpoint {text!r}: it must be SEQ:HASH, a number and 64 hexadecimal digits")
        seq, digest = text.strip().split(":")
        return cls(int(seq), digest)


START: Final = Checkpoint(0, "0" * 64)
"""What the first entry of a log follows."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log.

    Attributes:
        time: Unix seconds.
        event: what was logged; ``None`` of a note.
        note: what the log says of itself: ``begins`` a file, ``missed`` events that could not be written (or not be
            confirmed to be on the disk), ``torn`` bytes that a crash left and that were moved to another file.
        previous: hash of the entry before.
    """

    seq: int
    time: float
    previous: str
    hash: str
    event: Mapping[str, Any] | None = None
    note: Mapping[str, Any] | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """What tells that the log reached this entry."""
        return Checkpoint(self.seq, self.hash)


@dataclass(frozen=True, slots=True)
class Verified:
    """A log of which no line was touched.

    Attributes:
        entries: how many there are.
        first: number of the first one; what lies before was in files that are not here.
        head: the last one.
    """

    entries: int
    first: int
    head: Checkpoint


def chain_key(key: bytes) -> bytes:
    """Return the key of the chain, which can be handed to an auditor and opens nothing else."""
    return derived(key, "gro audit log")


def seal(
    chain: bytes, head: Checkpoint, time: float, kind: str, content: Mapping[str, Any]
) -> tuple[bytes, Checkpoint]:
    """Return the line, newline included, of the entry after ``head``, and its checkpoint."""
    body = encode({"seq": head.seq + 1, "time": time, "previous": head.hash, kind: content})[:-1]
    digest = hmac.digest(chain, body, "sha256").hex()
    return body + _HASH % digest.encode() + b"\n", Checkpoint(head.seq + 1, digest)


def unseal(chain: bytes, line: bytes) -> Entry:
    """Read a line without its newline.

    Raises:
        ValueError: it is not one that was written with this key; says why.
    """
    if len(line) > LONGEST:
        raise ValueError(f"is longer than {LONGEST:,} bytes")
    body, sealed = line[:-_SEALED], line[-_SEALED:]
    digest = hmac.digest(chain, body, "sha256").hex()
    if not hmac.compare_digest(sealed, _HASH % digest.encode()):
        raise ValueError("was altered, or written with another key")
    return Entry(**json.loads(body + b"}"), hash=digest)


def verify(path: Path, key: bytes, checkpoint: Checkpoint | None = None) -> Verified:
    """Check a log with all its files, in memory that does not grow with them; it may be in use.

    Args:
        path: of the newest file.
        key: with which it was written.
        checkpoint: an entry that it must hold.

    Raises:
        DataError: names the first line that is wrong and says why; or there is no log, or not that entry.
    """
    count, first, head = 0, START.seq, START
    for entry in entries(path, key):
        count, first, head = count + 1, first or entry.seq, entry.checkpoint
        if checkpoint is not None and entry.seq == checkpoint.seq and entry.checkpoint != checkpoint:
            raise DataError(f"{path}: entry {entry.seq} is not the one of the checkpoint: the log was rewritten")
    if checkpoint is not None and not first <= checkpoint.seq <= head.seq:
        raise DataError(
            f"{path}: holds the entries {first} to {head.seq}, and the checkpoint is entry {checkpoint.seq}: "
            + ("the end was cut off" if checkpoint.seq > head.seq else "earlier files are missing")
        )
    if not count:
        raise DataError(f"{path}: the audit log holds no entry, and every log begins with one")
    return Verified(count, first, head)


def entries(path: Path, key: bytes) -> Iterator[Entry]:
    """Read a log with all its files, oldest entry first.

    Raises:
        DataError: as :func:`verify`, once the entries before the wrong line were read.
    """
    chain, head = chain_key(key), None
    with ExitStack() as stack:
        for name, file, size in _opened(path, stack):
            for number, line in enumerate(_lines(file, size), 1):
                try:
                    entry = _next(chain, line, head, begins=number == 1)
                except ValueError as error:
                    raise DataError(f"{name}:{number}: {error}") from None
                head = entry.checkpoint
                yield entry


def older(path: Path) -> list[Path]:
    """Return the files that a log was rotated to, oldest first."""
    return sorted(path.parent.glob(f"{escape(path.stem)}-{'[0-9]' * 12}{escape(path.suffix)}"))


def numbered(path: Path, seq: int, suffix: str | None = None) -> Path:
    """Return the name of a file beside the log that has to do with entry ``seq``."""
    return path.with_name(f"{path.stem}-{seq:012d}{path.suffix if suffix is None else suffix}")


def _opened(path: Path, stack: ExitStack) -> Iterator[tuple[Path, BinaryIO, int]]:
    """Open the files, oldest first, each with its size.

    The newest is opened at once: it may be rotated meanwhile, and what is begun after it is not looked at.
    """
    try:
        newest = _newest(path, stack)
        rotated = older(path)
        if newest is None and not rotated:
            raise DataError(f"{path}: no audit log is there")
        size = 0 if newest is None else _size(newest)
        for name in rotated:
            if newest is not None and os.path.samestat(name.stat(), os.fstat(newest.fileno())):
                break
            with name.open("rb") as file:
                yield name, file, _size(file)
    except OSError as error:
        raise DataError(f"{error.filename or path}: {(error.strerror or 'cannot be read').lower()}") from None
    if newest is not None:
        yield path, newest, size


def _newest(path: Path, stack: ExitStack) -> BinaryIO | None:
    try:
        return stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        return None


def _size(file: BinaryIO) -> int:
    """Size of a file of which nobody is writing a line."""
    fcntl.flock(file, fcntl.LOCK_SH)
    try:
        return os.fstat(file.fileno()).st_size
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        line = file.readline(min(size, LONGEST + 2))
        size -= len(line)
        yield line


def _next(chain: bytes, line: bytes, head: Checkpoint | None, *, begins: bool) -> Entry:
    if not line.endswith(b"\n") and len(line) <= LONGEST:
        raise ValueError("the line is cut off; opening the log for writing puts the rest of it aside")
    try:
        entry = unseal(chain, line.removesuffix(b"\n"))
    except ValueError as error:
        raise ValueError(f"the line {error}") from None
    expected = head or (START if entry.seq == 1 else Checkpoint(entry.seq - 1, entry.previous))
    if entry.seq != expected.seq + 1:
        raise ValueError(f"entry {entry.seq} follows entry {expected.seq}: lines were removed or moved")
    if entry.previous != expected.hash:
        raise ValueError(f"entry {entry.seq} does not follow the entry {expected.seq} before it: that one was replaced")
    if begins != ("begins" in (entry.note or {})):
        raise ValueError(f"entry {entry.seq} is not where the file begins: lines were removed or moved")
    return entry
