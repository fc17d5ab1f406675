"""The audit log: appended to, never rewritten, each line chained to the one before; see :mod:`gro.service.chain`."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field

from gro.config import Settings
from gro.errors import ConfigError, DataError
from gro.service.chain import LONGEST, START, Checkpoint, chain_key, numbered, older, seal, unseal
from gro.service.core import Refused
from gro.service.lines import named

PATIENCE: Final = 2000
"""Milliseconds that an entry waits at most for another process or thread that writes."""


class AuditSettings(Settings):
    """Where the audit log lies and what becomes of a request that cannot be logged."""

    path: Path
    """The newest file, such as audit.jsonl; older ones lie beside it as audit-SEQ.jsonl, by their last entry."""
    key_file: Path
    """File with the secret of the chain, 32 bytes or more; who verifies needs it too."""
    fsync_every: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Seconds that entries may be lost of when the machine (not the process) dies; 0 has each on the disk before the
    request goes on."""
    max_bytes: Annotated[int, Field(ge=4096)] = 64 << 20
    """Size from which a new file is begun."""
    when_audit_fails: Literal["deny", "continue"] = "deny"
    """Whether a request whose entry cannot be written is refused, or answered and later noted as missed."""


class AuditUnavailable(Refused):
    """The audit log cannot be written and its settings say that nothing is to happen unlogged."""

    def __init__(self) -> None:
        detail = "the service cannot answer now; try again later"
        super().__init__(503, "audit_unavailable", detail, {"Retry-After": "5"})


class AuditLog:
    """Writes entries; threads and processes may write to one log, each entry under a lock of its file.

    Calls wait for the disk: in an event loop they belong into a thread.
    """

    def __init__(
        self,
        settings: AuditSettings,
        key: bytes,
        *,
        clock: Callable[[], float],
        failed: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        """Open a log, or begin one.

        What a crash left of a last line is moved to a file beside the log, and an entry says so.

        Args:
            settings: where and how.
            key: what ``settings.key_file`` holds.
            clock: Unix seconds.
            failed: is told whenever an entry could not be written, or not be confirmed to be on the disk.

        Raises:
            ConfigError: the file cannot be written.
            DataError: its last line was altered or written with another key.
        """
        self._settings, self._path, self._chain = settings, settings.path, chain_key(key)
        self._clock, self._failed = clock, failed
        self._mutex, self._counting = threading.Lock(), threading.Lock()
        self._timer: threading.Timer | None = None
        self._descriptor, self._size, self._missed, self._head = -1, 0, 0, START
        try:
            with self._locked():
                self._add()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise ConfigError(f"audit log {self._path}: cannot be written: {why}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def head(self) -> Checkpoint:
        """The last entry that this process knows of: what to keep elsewhere as a checkpoint."""
        return self._head

    def append(self, event: Mapping[str, Any]) -> Checkpoint | None:
        """Write an entry; it is on the disk afterwards where the settings say so.

        Returns:
            The entry's checkpoint; ``None`` where it could not be written and the settings say to continue.

        Raises:
            AuditUnavailable: it could not be written, and the settings say to deny. How many were missed is noted with
                the next entry that can be written.
        """
        try:
            with self._locked():
                self._add(event)
                return self._head
        except (OSError, DataError) as error:
            with self._counting:
                self._missed += 1
            self._failed(error)
            if self._settings.when_audit_fails == "deny":
                raise AuditUnavailable from error
            return None

    def sync(self) -> None:
        """Have everything on the disk."""
        self._timer = None
        try:
            with self._locked():
                os.fsync(self._descriptor)
        except (OSError, DataError) as error:
            self._failed(error)

    def close(self) -> None:
        """Have everything on the disk and close the file."""
        if self._timer:
            self._timer.cancel()
        self.sync()
        self._shut()

    def _add(self, event: Mapping[str, Any] | None = None) -> None:
        """Write an entry, after a note where there is something to note; the file is locked."""
        self._settle()
        if self._size >= self._settings.max_bytes:
            self._rotate()
        data, head, missed = b"", self._head, self._missed
        if note := self._note(missed):
            data, head = seal(self._chain, head, self._clock(), "note", note)
        if event is not None:
            line, head = seal(self._chain, head, self._clock(), "event", event)
            if len(line) > LONGEST:
                raise DataError(f"an entry of {len(line):,} bytes; the audit log takes {LONGEST:,}")
            data += line
        self._write(data)
        self._head = head
        with self._counting:
            self._missed -= missed
        self._sync_soon()
        if "begins" in note:
            _sync_folder(self._path.parent)

    def _note(self, missed: int) -> dict[str, Any]:
        note: dict[str, Any] = {}
        if not self._size:
            note["begins"] = self._path.name
        if missed:
            note["missed"] = missed
        if (torn := self._torn()).exists():
            data = torn.read_bytes()
            note["torn"] = {"file": torn.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return note

    def _torn(self) -> Path:
        """Where the start of the next entry is that a crash cut off, if one did."""
        return numbered(self._path, self._head.seq + 1, ".torn")

    def _settle(self) -> None:
        """Learn what others have written since this process last wrote, and put aside what a crash left.

        A file that has become shorter was tampered with: what follows continues the entry that was the last, and so
        cannot be verified where it stands.
        """
        size = os.fstat(self._descriptor).st_size
        if size == 0:
            self._head = max(self._head, self._rotated(), key=lambda head: head.seq)
        elif size != self._size:
            start = max(self._size if size > self._size else 0, size - 2 * LONGEST)
            whole, newline, torn = os.pread(self._descriptor, size - start, start).rpartition(b"\n")
            if size > self._size and (newline or start > self._size):  # without one, longer than any line may be
                self._head = self._last(self._path, whole if newline else torn)
            if torn:
                self._put_aside(torn, size - len(torn))
            size -= len(torn)
        self._size = size

    def _rotated(self) -> Checkpoint:
        """The last entry of the newest rotated file."""
        files = older(self._path)
        if not files:
            return START
        with files[-1].open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LONGEST - 1))
            return self._last(files[-1], file.read().removesuffix(b"\n"))

    def _last(self, path: Path, lines: bytes) -> Checkpoint:
        try:
            return unseal(self._chain, lines.rpartition(b"\n")[2]).checkpoint
        except ValueError as error:
            raise DataError(f"audit log {path}: the last line {error}; verify the log, then move it away") from None

    def _put_aside(self, torn: bytes, size: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with os.fdopen(os.open(self._torn(), flags, 0o640), "ab") as file:
            file.write(torn)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self._path.parent)
        os.ftruncate(self._descriptor, size)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def _sync_soon(self) -> None:
        if not self._settings.fsync_every:
            os.fsync(self._descriptor)
        elif self._timer is None:
            self._timer = threading.Timer(self._settings.fsync_every, self.sync)
            self._timer.daemon = True
            self._timer.start()

    def _rotate(self) -> None:
        target = numbered(self._path, self._head.seq)
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        os.fsync(self._descriptor)
        self._path.rename(target)
        self._open()
        self._settle()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Have the file that has the name now, and nobody else writing to it."""
        if not self._mutex.acquire(timeout=PATIENCE / 1000):
            raise TimeoutError(errno.ETIMEDOUT, "another thread is writing")
        try:
            self._open()
            yield
        finally:
            if self._descriptor >= 0:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._mutex.release()

    def _open(self) -> None:
        """Lock the file that has the name: it may be another one than before, and be renamed until it is locked."""
        while True:
            if not named(self._path, self._descriptor):
                self._shut()
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._descriptor, self._size = os.open(self._path, flags, 0o640), 0
            _lock(self._descriptor)
            if named(self._path, self._descriptor):
                return

    def _shut(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _lock(descriptor: int) -> None:
    for _ in range(PATIENCE):
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.001)
    raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
