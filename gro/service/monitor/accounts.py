"""What is remembered of an account: 608 bytes, whatever it does, and a cache of recent answers that all share."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        ("tallies", np.float64, (len(FEATURES), 2)),
        ("moments", np.float64, 4),
        ("last", np.float64),
        ("score", np.float64),
        ("end", np.uint64),
        ("items", np.uint8, sketches.BITS // 8),
        ("shown", np.uint8, sketches.BITS // 8),
        ("signatures", np.uint16, (REMEMBERED, sketches.SIGNATURE)),
        ("calls", np.int32),
        ("begun", np.int32),
    ]
)
"""Tallies are, for each of :data:`FEATURES` in their order, a sum and the number of observations that it rests on."""
KEPT: Final = ("last", "score", "end", "begun", "signatures")
"""Fields that say where an account stands; the others are counts, which begin anew from time to time."""
_SPREAD, _REVEALED, _REGULAR = (tuple(FEATURES).index(name) for name in ("spread", "revealed", "regular"))
_SHORT, _ONE = np.uint64(32), np.uint64(1)
Record = np.void
Values = npt.NDArray[np.float64]


class Answers:
    """The latest answers of the service, by what the history ended in; a new one takes the place of an old one."""

    def __init__(self, slots: int, longest: int = 100) -> None:
        """Remember ``slots`` lists of up to ``longest`` items."""
        self._ends = np.zeros(slots, np.uint64)
        self._owners = np.zeros(slots, np.int64)
        self._lists = np.zeros((slots, longest), np.uint32)

    def find(self, ended: Sequence[int]) -> tuple[int, int] | None:
        """Return ``(j, slot)`` for the first entry of ``ended`` that was answered."""
        for j, end in enumerate(ended):
            slot = end % len(self._ends)
            if end and self._ends.item(slot) == end:
                return j, slot
        return None

    def owner(self, slot: int) -> int:
        """Hash of the account that was answered last."""
        return self._owners.item(slot)

    def place(self, slot: int, item: np.uint64) -> int | None:
        """Rank of an item in the list that was answered, from 0."""
        same = self._lists[slot] == _short(item)
        place = int(same.argmax())
        return place if same[place] else None

    def put(self, ended: int, owner: int, listed: Hashes) -> None:
        """Remember an answer."""
        slot = ended % len(self._ends)
        self._ends[slot], self._owners[slot] = ended, owner
        row = self._lists[slot]
        row[:] = 0
        row[: len(listed)] = _short(listed[: len(row)])


def observe(
    account: Record, owner: int, history: Items, listed: Items, now: float, answers: Answers, background: Background
) -> None:
    """Take in a call.

    Args:
        account: the record that is changed, of type :data:`ACCOUNT`.
        owner: a hash that tells the account from others.
        history: item ids ``[L]``, oldest first.
        listed: item ids ``[k]`` that were answered, best first; 0 where the list is padded.
        now: Unix seconds; what lies before the last call counts as no time at all.
        answers: of all accounts.
        background: what people do.
    """
    history, listed = history[-SEEN:], listed[listed != 0]
    hashes = mixed(np.concatenate((history, listed)))
    sent, shown = hashes[: len(history)], hashes[len(history) :]
    end, *before = ends(sent).tolist()
    found, last = answers.find(before), int(account["end"])
    own = before.index(last) if last and last in before else None
    new = 1 + (found[0] if found else own if own is not None else len(history) - 1)
    place = answers.place(found[1], sent[-new]) if found else None
    others = found and own is None and answers.owner(found[1]) != owner
    begun = None if found or own is not None else _begun(account, sent)
    plausible = background.plausibility(history, new)
    gap = max(now - account["last"], SECOND) if account["last"] else None
    seen = {
        "listed": (place is not None, found is not None),
        "rank": (0 if place is None else math.log1p(place) / math.log1p(max(len(listed), 2)), place is not None),
        "plausible": (plausible or 0, plausible is not None),
        "fresh": (begun is not None, 1),
        "spread": (0, new),
        "revealed": (0, len(listed)),
        "repeated": (begun is not None and begun <= NEAR, 1),
        "regular": (0, begun is not None),
        "pace": (0 if gap is None else math.log(gap), gap is not None),
        "foreign": (bool(others) and len(history) - new >= SHARED_PREFIX, 1),
    }
    tallies = account["tallies"]
    tallies += tuple(seen.values())
    sketches.add(account["items"], sent[-new:])
    sketches.add(account["shown"], shown)
    account["calls"] += 1
    account["last"] = max(now, account["last"])
    account["end"] = end
    answers.put(end, owner, shown)


def features(account: Record) -> tuple[Values, Values]:
    """Return the features ``[F]`` of an account and how many observations each rests on; 0 where there are none."""
    sums, rests = account["tallies"].T.copy()
    sums[_SPREAD] = sketches.distinct(account["items"])
    sums[_REVEALED] = sketches.distinct(account["shown"])
    sums[_REGULAR] = rests[_REGULAR] * _regular(rests.item(_REGULAR), *account["moments"].tolist())
    return sums / np.maximum(rests, 1), rests


def restart(account: Record) -> None:
    """Begin the counts anew; where the account stands is kept."""
    for name in ACCOUNT.names or ():
        if name not in KEPT:
            account[name] = 0


def _begun(account: Record, sent: Hashes) -> float | None:
    """Note a history that goes on with no earlier one.

    Returns:
        Its distance to the nearest of the last ones; ``None`` for an account's first, which is nothing to wonder at.
    """
    begun, signatures, one = int(account["begun"]), account["signatures"], sketches.signature(sent)
    nearest = float(sketches.distances(signatures[:begun], one).min()) if begun else None
    if nearest is not None:
        moments = account["moments"]
        moments += (nearest, nearest**2, nearest**3, nearest**4)
    signatures[begun % REMEMBERED] = one
    account["begun"] += 1
    return nearest


def _regular(n: float, *moments: float) -> float:
    """Jarque and Bera's statistic per observation: far from normal is large (after Juuti et al., EuroS&P 2019)."""
    if n < 2:
        return 0.0
    m1, m2, m3, m4 = (moment / n for moment in moments)
    variance = m2 - m1**2
    if variance <= 1e-9:
        return 0.0
    skew = (m3 - 3 * m1 * m2 + 2 * m1**3) / variance**1.5
    kurtosis = (m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4) / variance**2
    return math.log1p(skew**2 / 6 + (kurtosis - 3) ** 2 / 24)


def _short(hashes: Hashes | np.uint64) -> Hashes | np.uint64:
    return hashes >> _SHORT | _ONE
