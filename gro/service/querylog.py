"""The query log: who asked with which history and was answered with which list; what the monitor is calibrated on.

A line is a call: one JSON object, in UTF-8, with

=========== ================================================================================================
``version``  1, or left out
``time``     of the call, in Unix seconds
``account``  who asked: a name or a pseudonym, up to 1,024 characters
``history``  item ids, oldest first: integers from 1 to 2^63 - 1, or hashes of ids in that range
``list``     item ids that were answered, best first, by the same numbers as in histories
=========== ================================================================================================

and nothing else. Lines have 10 MB at most and stand in order of time. Files may be compressed with gzip.
"""

from __future__ import annotations

import gzip
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gro.errors import DataError
from gro.service.lines import LONGEST, Lines, dump, text
from gro.service.monitor.hashing import Items
from gro.service.privacy import Privacy

VERSION: Final = 1
MOST_BYTES: Final = 10_000_000
"""Of a line."""
TOGETHER: Final = 256
"""Histories that a replay has answered at a time."""
_GZIP: Final = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One history in, one list out.

    Attributes:
        time: Unix seconds.
        account: who asked.
        history: item ids ``[L]``, oldest first.
        listed: item ids ``[k]`` that were answered, best first.
    """

    time: float
    account: str
    history: Items
    listed: Items


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    version: Literal[1] = VERSION
    time: Annotated[float, Field(allow_inf_nan=False)]
    account: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    history: list[Annotated[int, Field(ge=1, lt=2**63)]]
    listed: Annotated[list[Annotated[int, Field(ge=1, lt=2**63)]], Field(alias="list")]


class QueryLog:
    """Files of calls, which are read anew, a line at a time, whenever the log is iterated.

    Calls come as they stand there: file by file, and where time goes backwards it does.
    """

    def __init__(self, *paths: Path) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[Call]:
        """Read every call.

        Raises:
            DataError: names the file and the line that cannot be read, and says why.
        """
        for path in self._paths:
            for number, line in enumerate(_lines(path), 1):
                if not line.isspace():
                    yield _read(f"{path}:{number}", line)


class QueryLogWriter:
    """Writes calls, and says of accounts and items no more than is set."""

    def __init__(
        self,
        target: Path | int,
        *,
        privacy: Privacy,
        report: Callable[[int], None],
        lost: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Write to a file or a descriptor; see :class:`gro.service.lines.Lines`.

        Args:
            target: where to.
            privacy: what is written of people.
            report: is told, in another thread, how many calls were lost, once another one has been written.
            lost: is told so at once, in any thread.

        Raises:
            ConfigError: the file cannot be opened; or items are hashed and there is no key.
        """
        self._privacy, self._items, self._tell = privacy, privacy.items(), report
        self._lines = Lines(target, report=self._report, lost=lost)

    def write(self, call: Call) -> None:
        """Queue a call to be written; never waits."""
        fields = {
            "version": VERSION,
            "time": call.time,
            "account": text(self._privacy.account(call.account)),
            "history": self._items(call.history.tolist()),
            "list": self._items(call.listed.tolist()),
        }
        self._lines.write(dump(fields))

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, for ``timeout`` seconds at most."""
        self._lines.close(timeout)

    def _report(self, lost: int) -> bytes:
        self._tell(lost)
        return b""


def replayed(
    users: Iterable[object],
    items: npt.ArrayLike,
    times: npt.ArrayLike,
    answer: Callable[[Sequence[Sequence[int]]], Sequence[Sequence[int]]],
    k: int,
) -> Iterator[Call]:
    """Replay interactions as the calls of real users: each one asks after each item, with all of their items so far.

    Args:
        users: of the interactions ``[N]``; as text, the accounts.
        items: their item ids ``[N]``.
        times: Unix seconds ``[N]``; those of the same time come in the order given.
        answer: the ranking service: histories, oldest item first, to a list for each.
        k: length of the lists, which are cut to it.

    Raises:
        DataError: the columns are not equally long, or a list is shorter than ``k``.
    """
    names, ids, at = [str(user) for user in users], np.asarray(items, np.int64), np.asarray(times, np.float64)
    if not len(names) == len(ids) == len(at):
        raise DataError(f"{len(names)} users, {len(ids)} items and {len(at)} times; an interaction has one of each")
    order = np.argsort(at, kind="stable")
    grown: defaultdict[str, list[int]] = defaultdict(list)
    for start in range(0, len(order), TOGETHER):
        places = order[start : start + TOGETHER]
        histories = []
        for place in places:
            grown[names[place]].append(int(ids[place]))
            histories.append(grown[names[place]].copy())
        for place, history, listed in zip(places, histories, answer(histories), strict=True):
            if len(listed) < k:
                raise DataError(f"a list has {len(listed)} items; it must have {k} or more")
            best = np.asarray(listed[:k], np.int64)
            yield Call(float(at[place]), names[place], np.array(history, np.int64), best)


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a file, the newline included where there is one; a longer one than may be is cut."""
    try:
        with path.open("rb") as raw:
            compressed = raw.peek(2)[:2] == _GZIP
            file: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if compressed else raw
            while line := file.readline(MOST_BYTES + 1):
                yield line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None


def _read(where: str, line: bytes) -> Call:
    if len(line) > MOST_BYTES:
        raise DataError(f"{where}: longer than {MOST_BYTES:,} bytes")
    try:
        found = _Line.model_validate_json(line)
    except ValidationError as error:
        cut = "" if line.endswith(b"\n") else "; the line is cut off: whoever wrote it was stopped or is still writing"
        raise DataError(f"{where}: {_why(error)}{cut}") from None
    history, listed = np.array(found.history, np.int64), np.array(found.listed, np.int64)
    return Call(found.time, found.account, history, listed)


def _why(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "missing":
            return f"'{key}' is missing"
        case "extra_forbidden":
            return f"unknown field '{text(key, 40)}'; a call has version, time, account, history and list"
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"'{key}': {message}" if key else message
