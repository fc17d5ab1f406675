"""What holds accounts, on disk: a line of JSON per change, so that a restart frees nobody."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from gro.config import Settings
from gro.errors import ConfigError
from gro.service.access.files import PROTECTED, read_trusted, replace
from gro.service.playbook import State

FORMAT: Final = {"format": "gro-held-accounts", "version": 1}
SPARE: Final = 10_000
"""Lines beyond four per account that is held after which the file is written anew."""
Time = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Hold:
    """What holds an account in a state: a rule that was met, or an operator.

    Attributes:
        by: the rule's name, or the operator's.
        until: Unix seconds; None: until an operator releases the account.
        factor: share of its budgets that the account has.
        hook: what challenges the account.
        manual: an operator made it.
        dry_run: a dry run made it; it never acts.
    """

    state: State
    by: str
    why: str
    until: Time | None = None
    factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    hook: str | None = None
    manual: bool = False
    dry_run: bool = False


class Change(Settings):
    """A line: all that holds an account since a time; nothing does where it is empty."""

    at: Time
    account: str
    holds: tuple[Hold, ...]


class Journal:
    """A file of changes, of which the last one of each account counts; it belongs to one process.

    A change is in the hands of the operating system when :meth:`append` returns: it outlives the process, and a power
    cut after some seconds.

    Raises:
        ConfigError: another process has the file, or its folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._whole = True
        self._lock = _lock(path)

    def close(self) -> None:
        """Leave the file to the next process."""
        os.close(self._lock)

    def read(self) -> list[Change]:
        """Changes that count; a file without any is made where there is none.

        Raises:
            ConfigError: the file is damaged, foreign or in others' hands, or cannot be made.
        """
        if not self._path.exists():
            self.rewrite(())
        content, _ = read_trusted(self._path, PROTECTED)
        head, *lines = content.split(b"\n")
        if _json(head) != FORMAT:
            raise ConfigError(f"{self._path}: not a file of held accounts; its first line must be {json.dumps(FORMAT)}")
        if not lines or lines.pop():
            raise ConfigError(f"{self._path}: line {len(lines) + 2} is cut off; {_mend(self._path)}")
        self._lines = len(lines)
        changes = [self._change(line, number) for number, line in enumerate(lines, 2)]
        return [change for change in {change.account: change for change in changes}.values() if change.holds]

    def append(self, change: Change) -> None:
        """Write a change.

        Raises:
            ConfigError: it cannot be written, or an earlier one could not and the file was not written anew.
        """
        line = _line(change)
        try:
            with open(self._path, "ab", buffering=0, opener=_append) as file:
                self._whole = self._whole and file.write(line) == len(line)
        except OSError as error:
            self._whole = False
            raise ConfigError(f"{self._path}: {(error.strerror or 'cannot be written').lower()}") from None
        if not self._whole:
            raise ConfigError(f"{self._path}: a line was cut off; is the disk full?")
        self._lines += 1

    def stale(self, accounts: int) -> bool:
        """Whether the file should be written anew: a line was cut off, or most of them no longer count."""
        return not self._whole or self._lines > 4 * accounts + SPARE

    def rewrite(self, changes: Iterable[Change]) -> None:
        """Replace the file by one with these changes alone, in one step.

        Raises:
            ConfigError: it cannot be written.
        """
        lines = [json.dumps(FORMAT).encode() + b"\n", *map(_line, changes)]
        replace(self._path, b"".join(lines))
        self._lines, self._whole = len(lines) - 1, True

    def _change(self, line: bytes, number: int) -> Change:
        values = _json(line)
        try:
            return Change.make(values if isinstance(values, Mapping) else {}, f"{self._path}: line {number}")
        except ConfigError as error:
            raise ConfigError(f"{error}; {_mend(self._path)}") from None


def _lock(path: Path) -> int:
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(f"{lock}: {(error.strerror or 'cannot be made').lower()}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigError(f"{path}: another process has it; each replica needs a file of its own") from None
    return descriptor


def _append(path: str, flags: int) -> int:
    """Open a file that is there: a new one would lack its first line."""
    return os.open(path, flags & ~os.O_CREAT)


def _line(change: Change) -> bytes:
    return change.model_dump_json(exclude_defaults=True).encode() + b"\n"


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _mend(path: Path) -> str:
    return f"restore {path.name} from a backup, or remove the line and hold its account by hand"
