"""The second reading of a log: what flagged accounts and the others asked, were shown and picked."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from gro.service.analysis.survey import EVERY, Survey, Told
from gro.service.monitor.accounts import SEEN, Answers
from gro.service.monitor.calibration import Call
from gro.service.monitor.hashing import ends, mixed
from gro.service.monitor.monitor import ANSWERS

SLOTS: Final = 60
"""Parts of the log's time in which calls are counted."""
STEPS: Final = (1, 2, 5)
MARKS: Final = tuple(step * 10**power for power in range(13) for step in STEPS)
"""Numbers after which coverage is noted, and at which the buckets of lengths and ranks end."""


@dataclass(slots=True)
class Group:
    """Calls of several accounts.

    Attributes:
        times: calls by part of the log's time ``[SLOTS]``.
        lengths: calls by the length of their history.
        places: next items by their rank, from 1, in the list answered just before; 0 where they did not stand there.
        asked: calls by the last item of their history.
        shown: list entries by item.
    """

    times: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(SLOTS, np.int64))
    lengths: Counter[int] = field(default_factory=Counter)
    places: Counter[int] = field(default_factory=Counter)
    asked: Counter[int] = field(default_factory=Counter)
    shown: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class Coverage:
    """How many different items an account asked with and was shown, as its calls go on.

    Attributes:
        points: ``(calls, different items sent, different items shown)`` after 1, 2, 5, 10, ... calls.
    """

    calls: int = 0
    points: list[tuple[int, int, int]] = field(default_factory=list)
    _sent: set[int] = field(default_factory=set)
    _shown: set[int] = field(default_factory=set)

    def add(self, history: Sequence[int], listed: Sequence[int]) -> None:
        """Take in a call."""
        self.calls += 1
        self._sent.update(history)
        self._shown.update(listed)
        if self.calls in MARKS:
            self.points.append(self._now)

    @property
    def whole(self) -> list[tuple[int, int, int]]:
        """The points, and where the account stands after its last call."""
        return self.points if self.calls in MARKS else [*self.points, self._now]

    @property
    def _now(self) -> tuple[int, int, int]:
        return self.calls, len(self._sent), len(self._shown)


@dataclass(slots=True)
class Counts:
    """What the second reading found.

    Attributes:
        others: accounts that were never flagged.
        flagged: accounts that were.
        coverage: of the accounts that are followed.
        calls: in all.
    """

    others: Group
    flagged: Group
    coverage: Mapping[str, Coverage]
    calls: int = 0


def count(log: Iterable[Call], found: Survey, flagged: Container[str], followed: Iterable[str], told: Told) -> Counts:
    """Read a log again, knowing what it holds.

    Args:
        log: the calls that ``found`` was found in.
        found: by the first reading.
        flagged: accounts that are counted apart.
        followed: accounts whose coverage is told.
        told: how many calls are read.
    """
    counts = Counts(Group(), Group(), {name: Coverage() for name in followed})
    answers = Answers(ANSWERS, longest=max(found.lists))
    for call in log:
        group = counts.flagged if call.account in flagged else counts.others
        history, listed = call.history.tolist(), call.listed.tolist()
        group.times[_slot(call.time, found)] += 1
        group.lengths[len(history)] += 1
        group.shown.update(listed)
        if history:
            group.asked[history[-1]] += 1
        if (place := _picked(call, answers)) is not None:
            group.places[place] += 1
        if call.account in counts.coverage:
            counts.coverage[call.account].add(history, listed)
        counts.calls += 1
        if counts.calls % EVERY == 0:
            told(counts.calls)
    return counts


def buckets(counted: Mapping[int, int], longest: int) -> dict[str, int]:
    """Sum counts of numbers from 1 by the buckets 1, 2, 3-5, 6-10, 11-20, ..., up to that of the ``longest``."""
    ends_at = MARKS[: bisect_left(MARKS, longest) + 1]
    names = [f"{low + 1}-{high}" if high > low + 1 else str(high) for low, high in pairwise((0, *ends_at))]
    summed = dict.fromkeys(names, 0)
    for number, times in counted.items():
        if number:
            summed[names[bisect_left(MARKS, number)]] += times
    return summed


def _slot(time: float, found: Survey) -> int:
    """The part of the log's time that a call falls in."""
    share = (time - found.first) / ((found.last - found.first) or 1.0)
    return int(min(max(share, 0.0) * SLOTS, SLOTS - 1))


def _picked(call: Call, answers: Answers) -> int | None:
    """The rank from 1 of the next item in the list answered just before, as the monitor sees it.

    0 where it did not stand there, ``None`` where the history goes on with none that was answered.
    """
    sent = mixed(call.history[-SEEN:])
    end, *before = ends(sent).tolist()
    found = answers.find(before)
    place = None if found is None else answers.place(found[1], sent[-1 - found[0]])
    answers.put(end, 0, mixed(call.listed))
    return None if found is None else 0 if place is None else place + 1
