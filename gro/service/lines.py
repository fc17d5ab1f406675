"""JSON lines: what may stand in one, and a thread that writes them so that no request waits for a disk or a pipe."""

from __future__ import annotations

import json
import math
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gro.errors import ConfigError

LONGEST: Final = 1024
"""Characters of a string that are kept: those that Elasticsearch indexes of a keyword (``ignore_above``)."""
WAITING: Final = 16 << 20
"""Bytes of lines that may wait to be written, by default."""
GATHERED: Final = 0.01
"""Seconds for which lines are gathered, so that requests do not share the interpreter with a thread for each line."""
TOGETHER: Final = 1 << 14
"""Bytes from which no more lines are written together."""
_COMPACT: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def text(value: str, longest: int = LONGEST) -> str:
    """Return ``value`` cut to ``longest`` characters, with U+FFFD for lone surrogates, which no UTF-8 reader takes."""
    if len(value) > longest:
        value = value[: longest - 1] + "…"
    return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def encode(value: Any) -> bytes:
    """Return ``value`` as one line of ASCII JSON without its newline, whatever strings and numbers it holds.

    Control characters are escaped, long strings cut, and numbers that JSON does not know (NaN, infinities) null.
    """
    return dump(_plain(value))


def dump(value: Any) -> bytes:
    """As :func:`encode`, for a value whose strings are :func:`text` already and whose numbers are finite."""
    return _COMPACT.encode(value).replace("\x7f", "\\u007f").encode("ascii")


def _plain(value: Any) -> Any:
    match value:
        case str():
            return text(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {text(str(key)): _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case None | bool() | int():
            return value
    return text(str(value))


def named(path: Path, descriptor: int) -> bool:
    """Whether a file that is open, unless ``descriptor`` is below 0, still has its name: rotation takes it away."""
    try:
        return descriptor >= 0 and os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class Lines:
    """A queue of lines and the thread that appends them to a file or a file descriptor.

    The queue is bounded. A line that finds it full is lost, as is one that cannot be written (disk full, pipe closed):
    each is counted at once, and their number is reported as soon as a line can be written again. A file that was
    renamed or removed, as log rotation does, is opened anew under its name. Processes may append to the same file.
    """

    def __init__(
        self,
        target: Path | int,
        *,
        report: Callable[[int], bytes],
        lost: Callable[[int], None] = lambda count: None,
        most: int = WAITING,
    ) -> None:
        """Open ``target`` and start the thread; call it in the process that will write, after any fork.

        Args:
            target: a file, or a file descriptor such as 1, which stays open.
            report: is told, in the thread, how many lines were lost, and returns the line to write in their place.
            lost: is told at once, in any thread.
            most: bytes that may wait.

        Raises:
            ConfigError: the file cannot be opened.
        """
        self._path = target if isinstance(target, Path) else None
        self._descriptor = -1 if isinstance(target, Path) else target
        self._report, self._tell, self._most = report, lost, most
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._bytes = self._lost = self._unreported = 0
        self._closing = self._torn = False
        try:
            self._follow()
        except OSError as error:
            raise ConfigError(f"{target}: cannot be written: {(error.strerror or str(error)).lower()}") from None
        self._thread = threading.Thread(target=self._run, name="gro lines", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that were lost so far."""
        return self._lost

    def write(self, line: bytes) -> None:
        """Queue a line, which holds no newline; never waits."""
        with self._changed:
            fits = not self._closing and self._bytes + len(line) <= self._most
            if fits:
                self._queue.append(line)
                self._bytes += len(line)
                if len(self._queue) == 1:
                    self._changed.notify_all()
        if not fits:
            self._count(1)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything queued has been tried; whether that was so within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._bytes, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what is queued, for ``timeout`` seconds at most; what is then left is lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        with self._changed:
            left = len(self._queue)
            self._bytes -= sum(map(len, self._queue))
            self._queue.clear()
        if left:
            self._count(left)
        if self._path and not self._thread.is_alive():
            self._shut()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
            time.sleep(GATHERED)
            while lines := self._taken():
                self._put(lines)
                with self._changed:
                    self._bytes -= sum(map(len, lines))
                    self._changed.notify_all()

    def _taken(self) -> list[bytes]:
        """The next lines, those that are written together."""
        lines: list[bytes] = []
        size = 0
        with self._changed:
            while self._queue and size < TOGETHER:
                lines.append(self._queue.popleft())
                size += len(lines[-1])
        return lines

    def _put(self, lines: list[bytes]) -> None:
        """Write lines; one that cannot be written is lost, and the next ones are tried."""
        while lines:
            whole = self._append(lines)
            if whole < len(lines):
                self._count(1)
            elif unreported := self._unreported:
                report = self._report(unreported)
                if not report or self._append([report]):
                    with self._changed:
                        self._unreported -= unreported
            lines = lines[whole + 1 :]

    def _append(self, lines: list[bytes]) -> int:
        """Append lines, and say how many of them then stand there whole."""
        data, done, mended = b"", 0, False
        with suppress(OSError):
            if self._path:
                self._follow()
            mended = self._torn
            data = b"\n" * mended + b"".join(line + b"\n" for line in lines)
            while done < len(data):
                done += os.write(self._descriptor, memoryview(data)[done:])
        if done:
            self._torn = data[done - 1 : done] != b"\n"
        return max(0, data.count(b"\n", 0, done) - mended)

    def _follow(self) -> None:
        """Have the file open that has the name now."""
        if self._path is None or named(self._path, self._descriptor):
            return
        self._shut()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._torn = _torn(self._descriptor, self._path)

    def _shut(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _count(self, lines: int) -> None:
        with self._changed:
            self._lost += lines
            self._unreported += lines
        self._tell(lines)


def _torn(descriptor: int, path: Path) -> bool:
    """Whether a file ends within a line, as a crash leaves it."""
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or not about.st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
