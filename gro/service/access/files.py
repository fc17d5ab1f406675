"""Files that a running service trusts: whose they are, how they are read anew, and how they are written.

ASVS 5.0: 15.4.2 (owner and mode are those of the very file that is read; a change is made under a lock and seen whole
or not at all), 16.5.2 and 16.5.3 (a file that is damaged while the service runs lets nothing new in).

Not for file systems without POSIX owners, modes and locks.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from gro.errors import ConfigError

PRIVATE = 0o077
"""Mode bits that a file of secrets must not have: nobody else reads or writes it."""
PROTECTED = 0o022
"""Mode bits that a public file must not have: nobody else writes it."""
ValueT = TypeVar("ValueT")
Stamp = tuple[int, ...]

logger = logging.getLogger(__name__)


def read_trusted(path: Path, forbidden: int) -> tuple[bytes, Stamp]:
    """Read a file that belongs to this user or to root and has none of the ``forbidden`` mode bits.

    Returns:
        Its content, and a stamp that changes with the file.

    Raises:
        ConfigError: the file is missing, is no file, or is in others' hands.
    """
    with _one_line(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold the service up
    with _one_line(path), os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        _check(path, about, forbidden)
        return file.read(), _stamp(about)


def replace(path: Path, content: bytes) -> None:
    """Write a file of secrets (mode 0600), durably and at once: whoever reads it sees the old or the new one whole.

    Raises:
        ConfigError: it cannot be written; the old one is as it was.
    """
    with _one_line(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)  # it was renamed, or it failed
        _sync(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path``'s lock file, NAME.lock, against other processes and threads; it stays behind, for the next.

    Raises:
        ConfigError: the folder is missing or cannot be written.
    """
    lock = path.with_name(f"{path.name}.lock")
    with _one_line(lock):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Watched(Generic[ValueT]):
    """What a file says, read anew whenever the file changes.

    A file that cannot be read at the start is an error. One that is gone or damaged later is reported, once per change,
    and what it said before stays in force: nothing new is let in, and a slip of an editor does not lock everyone out.

    Args:
        path: of the file.
        parse: its content and its name to what it says; raises :class:`ConfigError`.
        forbidden: mode bits that the file must not have.
        told: receives each complaint about a changed file.

    Attributes:
        trouble: why the file as it is now is not the one in force; None where it is.

    Raises:
        ConfigError: the file is missing, malformed or in others' hands.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes, str], ValueT],
        forbidden: int,
        told: Callable[[str], None] = logger.error,
    ) -> None:
        self._path, self._parse, self._forbidden, self._told = path, parse, forbidden, told
        self.trouble: str | None = None
        self._value, self._seen = self._read()

    def current(self) -> ValueT:
        """What the file says now; costs one ``stat`` where it has not changed."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._reload(stamp)
        return self._value

    def _read(self) -> tuple[ValueT, Stamp | None]:
        content, stamp = read_trusted(self._path, self._forbidden)
        return self._parse(content, str(self._path)), stamp

    def _stamp(self) -> Stamp | None:
        try:
            return _stamp(self._path.stat())
        except OSError:
            return None

    def _reload(self, stamp: Stamp | None) -> None:
        try:
            self._value, self._seen = self._read()
            self.trouble = None
        except ConfigError as error:
            self._seen, self.trouble = stamp, str(error)
            self._told(f"{error}; what the file said before stays in force")


def _sync(folder: Path) -> None:
    """Make a rename in ``folder`` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(path: Path, about: os.stat_result, forbidden: int) -> None:
    mode = stat.S_IMODE(about.st_mode)
    if not stat.S_ISREG(about.st_mode):
        raise ConfigError(f"{path}: not a file")
    if about.st_uid not in {0, os.geteuid()}:
        raise ConfigError(f"{path}: belongs to user {about.st_uid}; it must be the service's own or root's")
    if mode & forbidden:
        raise ConfigError(f"{path}: mode {mode:04o} leaves it to others; make it {mode & ~forbidden:04o} (chmod)")


def _stamp(about: os.stat_result) -> Stamp:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'cannot be used').lower()}") from None
