"""What was let through and when, per name, in a few hundred bytes: no window ever holds more than it may.

A history is a flat array of records ``last, calls, entries``: what came within one cell counts as if it had come with
the last of it, and so never leaves a window early. Cells are a twelfth of the window that their age lies in (5 seconds
within a minute, 2 hours within a day), so a history has at most 13 records per window, and what is spread evenly is
held back for a thirteenth longer at most. A name with one call takes some 230 bytes, with one every hour 520.

Why not the strategies of `limits`: its moving window keeps every entry, 10,000 a day and account; its sliding-window
counter (Cloudflare's) takes older calls for evenly spread, so that who waits for the end of a window gets nearly twice
the limit within one. Its store in memory takes 820 bytes, and looks at every name on every hit: 0.3 seconds with
200,000 accounts.

Times come from the caller, and only their differences count. A record that lies in the future, because the clock went
back, counts as one of now: it frees nothing early and keeps nothing longer than its window.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

CALLS, ENTRIES = 1, 2
"""Columns of a record."""
COLUMNS = 3
CELLS = 12
"""Cells of a window."""
FORGOTTEN = 64
"""Idle names that are forgotten at most whenever one is added to, so that no call waits for a million of them."""


class Quota(NamedTuple):
    """What the window of a name may hold."""

    name: str
    span: int
    """Length of the window in seconds."""
    column: int
    amount: int


class Level(NamedTuple):
    """How a quota stood when it was asked for."""

    used: int
    """Without what was asked for."""
    wait: float
    """Seconds until what was asked for fits; where it does, until the oldest of what is then used is given back."""


Cost = tuple[int, int]
"""Calls and entries that are asked for."""


def fits(quotas: Sequence[Quota], levels: Sequence[Level], cost: Cost) -> bool:
    """Whether every quota has room for the cost."""
    return all(_surplus(quota, level.used, cost) <= 0 for quota, level in zip(quotas, levels, strict=True))


def _surplus(quota: Quota, used: int, cost: Cost) -> int:
    return used + cost[quota.column - 1] - quota.amount


class Windows:
    """Histories by name; names whose windows are all empty are forgotten.

    Args:
        spans: lengths of the windows that will be asked for, in seconds, shortest first.
    """

    def __init__(self, *spans: int) -> None:
        self._spans = spans
        self._histories: OrderedDict[str, array[float]] = OrderedDict()  # the longest idle first

    def __len__(self) -> int:
        return len(self._histories)

    def charge(self, quotas: Sequence[Quota], cost: Cost, now: float) -> list[Level]:
        """Count the cost for every name if all quotas have room for it, and for none otherwise; say how they stood."""
        histories = {name: self._settled(name, now) for name in {quota.name for quota in quotas}}
        levels = [_level(histories[quota.name], quota, cost, now) for quota in quotas]
        if fits(quotas, levels, cost):
            for name in histories:
                self.add(name, now, *cost)
        return levels

    def refund(self, quotas: Sequence[Quota], cost: Cost, then: float) -> None:
        """Take back a cost that was counted ``then``, moments ago."""
        for history in filter(None, map(self._histories.get, {quota.name for quota in quotas})):
            record = min(bisect_left(history[::COLUMNS], then) * COLUMNS, len(history) - COLUMNS)
            for column in (CALLS, ENTRIES):
                history[record + column] = max(0.0, history[record + column] - cost[column - 1])
            if not any(history[record + CALLS : record + COLUMNS]):
                del history[record : record + COLUMNS]

    def used(self, name: str, now: float, span: int, column: int = CALLS) -> int:
        """What counts in the window of ``span`` seconds that ends now."""
        history = self._settled(name, now)
        return int(sum(history[_first(history, now - span) + column :: COLUMNS]))

    def add(self, name: str, now: float, calls: int, entries: int = 0) -> None:
        """Count ``calls`` and ``entries`` from now on."""
        history = self._settled(name, now)
        if history and self._together(history[-COLUMNS], now, now):
            history[-COLUMNS:] = array("d", (now, history[-2] + calls, history[-1] + entries))
        else:
            history = self._merged([*history, now, calls, entries], now)
        self._histories[name] = history
        self._histories.move_to_end(name)
        self._forget(now)

    def drop(self, name: str) -> None:
        """Forget a name."""
        self._histories.pop(name, None)

    def _settled(self, name: str, now: float) -> array[float]:
        """A history, with what lies in the future drawn to now and what left the longest window dropped."""
        history = self._histories.get(name)
        if history is None:
            return array("d")
        for record in range(len(history) - COLUMNS, -1, -COLUMNS):
            if history[record] <= now:
                break
            history[record] = now
        if gone := _first(history, now - self._spans[-1]):
            del history[:gone]
        return history

    def _merged(self, records: list[float], now: float) -> array[float]:
        """The records, those of one cell put together."""
        merged = records[:COLUMNS]
        for at in range(COLUMNS, len(records), COLUMNS):
            last, calls, entries = records[at : at + COLUMNS]
            if self._together(merged[-COLUMNS], last, now):
                merged[-COLUMNS:] = last, merged[-2] + calls, merged[-1] + entries
            else:
                merged += last, calls, entries
        return array("d", merged)

    def _together(self, earlier: float, later: float, now: float) -> bool:
        for span in self._spans:
            if later > now - span:
                return earlier * CELLS // span == later * CELLS // span
        return False

    def _forget(self, now: float) -> None:
        for _ in range(FORGOTTEN):
            name = next(iter(self._histories))
            if self._settled(name, now):
                break
            del self._histories[name]


def _level(history: array[float], quota: Quota, cost: Cost, now: float) -> Level:
    first = _first(history, now - quota.span)
    counts = history[first + quota.column :: COLUMNS]
    used = int(sum(counts))
    surplus = _surplus(quota, used, cost)
    for last, count in zip(history[first::COLUMNS], counts, strict=True):
        surplus -= int(count)
        if surplus <= 0:
            return Level(used, last + quota.span - now)
    return Level(used, float(quota.span))


def _first(history: array[float], start: float) -> int:
    """Index of the first record after ``start``."""
    if not history or history[0] > start:
        return 0
    return bisect_right(history[::COLUMNS], start) * COLUMNS
