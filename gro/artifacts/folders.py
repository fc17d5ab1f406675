"""Put a finished folder in the place of another one in a single step."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def install(new: Path, target: Path) -> None:
    """Move the folder ``new`` to ``target``, whatever is there is removed; both lie on one file system.

    Where the system can exchange two folders (Linux) there is no moment without ``target``; elsewhere a short one.

    Raises:
        OSError: the move failed; ``target`` is as before.
    """
    _sync(new)
    if not target.exists():
        new.rename(target)
    else:
        _exchange(new, target)
        shutil.rmtree(new, ignore_errors=True)
    _sync(target.parent)


def _exchange(first: Path, second: Path) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return _exchange_in_steps(first, second)
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return None
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
        return _exchange_in_steps(first, second)
    raise OSError(code, os.strerror(code), str(second))


def _exchange_in_steps(first: Path, second: Path) -> None:
    aside = first.with_name(f"{first.name}.old")
    second.rename(aside)
    try:
        first.rename(second)
    except OSError:
        aside.rename(second)
        raise
    aside.rename(first)


def _sync(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
