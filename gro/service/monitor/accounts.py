"""What is remembered of an account: some 550 bytes, whatever it does, and a cache of recent answers that all share."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from gro.service.monitor import sketches
from gro.service.monitor.background import Background
from gro.service.monitor.hashing import Hashes, Items, ends, mixed

FEATURES: Final = {
    "listed": "share of next items that stood in the list answered just before",
    "rank": "place in that list of those that did: logarithm of the place by that of the list's length",
    "plausible": "how plausible its next items are after those before them, under what people do",
    "fresh": "share of calls that do not go on with a history it asked for before",
    "spread": "different items sent, by items sent",
    "revealed": "different items it was shown, by list entries served to it",
    "repeated": "share of calls whose history is, but for an item, one of its last ones",
    "regular": "evenness of the distances between histories that it began (PRADA)",
    "pace": "logarithm of the seconds between calls",
    "foreign": "share of calls that go on with a history only another account asked for",
}
SEEN: Final = 50
"""Items at the end of a history that are looked at."""
REMEMBERED: Final = 8
"""Histories of an account that the next ones are compared with."""
SHARED_PREFIX: Final = 4
"""Shortest history of another account that is not gone on with by chance."""
NEAR: Final = 0.1
"""Jaccard distance up to which two histories are the same but for an item."""
SECOND: Final = 1.0
"""Shortest time between calls that is told apart: faster is for the limits to judge."""

ACCOUNT: Final = np.dtype(
    [
        *((name, np.int32) for name in ("calls", "sent", "entries", "picks", "listed", "judged", "gaps")),
        *((name, np.int32) for name in ("fresh", "repeated", "foreign")),
        *((name, np.float64) for name in ("rank", "plausible", "pace")),
        ("distances", np.float64, 5),
        ("items", np.uint64, sketches.BITS // 64),
        ("shown", np.uint64, sketches.BITS // 64),
        ("last", np.float64),
        ("score", np.float64),
        ("end", np.uint64),
        ("begun", np.int32),
        ("signatures", np.uint16, (REMEMBERED, sketches.SIGNATURE)),
    ]
)
KEPT: Final = ("last", "score", "end", "begun", "signatures")
"""Fields that say where an account stands; the others are counts, which begin anew from time to time."""
Record = np.void
Values = npt.NDArray[np.float64]


class Answers:
    """The latest answers of the service, by what the history ended in; a new one takes the place of an old one."""

    def __init__(self, slots: int, longest: int = 100) -> None:
        """Remember ``slots`` lists of up to ``longest`` items."""
        self._ends = np.zeros(slots, np.uint64)
        self._owners = np.full(slots, -1, np.int32)
        self._lists = np.zeros((slots, longest), np.uint32)

    def find(self, ended: Hashes) -> tuple[int, int] | None:
        """Return ``(j, slot)`` for the first entry of ``ended`` that was answered."""
        slots = (ended % np.uint64(len(self._ends))).astype(np.intp)
        hits = np.flatnonzero((self._ends[slots] == ended) & (ended != 0))
        return (int(hits[0]), int(slots[hits[0]])) if len(hits) else None

    def owner(self, slot: int) -> int:
        """Number of the account that was answered last."""
        return int(self._owners[slot])

    def place(self, slot: int, item: np.uint64) -> int | None:
        """Rank of an item in the list that was answered, from 0."""
        found = np.flatnonzero(self._lists[slot] == _short(item))
        return int(found[0]) if len(found) else None

    def put(self, ended: np.uint64, owner: int, listed: Hashes) -> None:
        """Remember an answer."""
        slot = int(ended % np.uint64(len(self._ends)))
        self._ends[slot], self._owners[slot] = ended, owner
        row = self._lists[slot]
        row[:] = 0
        row[: len(listed)] = _short(listed[: len(row)])


def observe(
    account: Record, number: int, history: Items, listed: Items, now: float, answers: Answers, background: Background
) -> None:
    """Take in a call.

    Args:
        account: the record that is changed, of type :data:`ACCOUNT`.
        number: of the account among all.
        history: item ids ``[L]``, oldest first.
        listed: item ids ``[k]`` that were answered, best first.
        now: Unix seconds; what lies before the last call counts as no time at all.
        answers: of all accounts.
        background: what people do.
    """
    history = history[-SEEN:]
    sent, shown = mixed(history), mixed(listed)
    ended = ends(sent)
    found = answers.find(ended[1:])
    own = np.flatnonzero((ended[1:] == account["end"]) & (ended[1:] != 0))
    new = 1 + (found[0] if found else int(own[0]) if len(own) else len(history) - 1)
    owner = number if len(own) or not found else answers.owner(found[1])
    if found:
        _picked(account, answers.place(found[1], sent[-new]), len(listed))
    if not (found or len(own)):
        _begun(account, sent)
    elif owner != number and len(history) - new >= SHARED_PREFIX:
        account["foreign"] += 1
    plausible = background.plausibility(history, new)
    if plausible is not None:
        account["judged"] += 1
        account["plausible"] += plausible
    if account["last"]:
        account["gaps"] += 1
        account["pace"] += math.log(max(now - account["last"], SECOND))
    sketches.add(account["items"], sent[-new:])
    sketches.add(account["shown"], shown)
    account["calls"] += 1
    account["sent"] += new
    account["entries"] += len(listed)
    account["last"] = max(now, account["last"])
    account["end"] = ended[0]
    answers.put(ended[0], number, shown)


def features(account: Record) -> tuple[Values, Values]:
    """Return the features ``[F]`` of an account and how many observations each rests on; 0 where there are none."""
    calls, begun = int(account["calls"]), float(account["distances"][0])
    sums = (
        int(account["listed"]),
        float(account["rank"]),
        float(account["plausible"]),
        int(account["fresh"]),
        sketches.distinct(account["items"]),
        sketches.distinct(account["shown"]),
        int(account["repeated"]),
        _regular(account["distances"]) * begun,
        float(account["pace"]),
        int(account["foreign"]),
    )
    picks, listed, judged, gaps = (int(account[name]) for name in ("picks", "listed", "judged", "gaps"))
    support = (picks, listed, judged, calls, int(account["sent"]), int(account["entries"]), calls, begun, gaps, calls)
    rests = np.array(support, np.float64)
    return np.array(sums, np.float64) / np.maximum(rests, 1), rests


def restart(account: Record) -> None:
    """Begin the counts anew; where the account stands is kept."""
    for name in ACCOUNT.names or ():
        if name not in KEPT:
            account[name] = 0


def _picked(account: Record, place: int | None, k: int) -> None:
    account["picks"] += 1
    if place is not None:
        account["listed"] += 1
        account["rank"] += math.log1p(place) / math.log1p(max(k, 2))


def _begun(account: Record, sent: Hashes) -> None:
    """Note a history that goes on with no earlier one; an account's first is nothing to wonder at."""
    begun, signatures, one = int(account["begun"]), account["signatures"], sketches.signature(sent)
    if begun:
        nearest = float(sketches.distances(signatures[: min(begun, REMEMBERED)], one).min())
        account["fresh"] += 1
        account["repeated"] += nearest <= NEAR
        account["distances"] += nearest ** np.arange(5)
    signatures[begun % REMEMBERED] = one
    account["begun"] += 1


def _regular(moments: Values) -> float:
    """Jarque and Bera's statistic per observation: far from normal is large (after Juuti et al., EuroS&P 2019)."""
    n = moments[0]
    if n < 2:
        return 0.0
    m1, m2, m3, m4 = moments[1:] / n
    variance = m2 - m1**2
    if variance <= 1e-9:
        return 0.0
    skew = (m3 - 3 * m1 * m2 + 2 * m1**3) / variance**1.5
    kurtosis = (m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4) / variance**2
    return float(np.log1p(skew**2 / 6 + (kurtosis - 3) ** 2 / 24))


def _short(hashes: Hashes | np.uint64) -> npt.NDArray[np.uint32]:
    return np.asarray(hashes >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
