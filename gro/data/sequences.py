"""The per-user sequence store and its leave-one-out views."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gro.errors import DataError

MIN_INTERACTIONS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Every user's items, oldest first, in compressed rows: user ``u`` has ``items[indptr[u]:indptr[u + 1]]``."""

    name: str
    indptr: npt.NDArray[np.int64]
    """Row bounds, [n_users + 1]."""
    items: npt.NDArray[np.int32]
    """Item ids 1..n_items, [n_interactions]."""
    item_tokens: npt.NDArray[np.str_]
    """Token of every item id, [n_items + 1]; position 0 is "[PAD]"."""
    user_tokens: npt.NDArray[np.str_]
    """Token of every user, [n_users]."""

    @property
    def n_users(self) -> int:
        """Number of users; they are 0..n_users-1."""
        return len(self.indptr) - 1

    @property
    def n_items(self) -> int:
        """Number of items; they are 1..n_items."""
        return len(self.item_tokens) - 1

    @property
    def n_interactions(self) -> int:
        """Number of interactions."""
        return len(self.items)

    def history(self, user: int) -> npt.NDArray[np.int32]:
        """Return a view of one user's item ids, oldest first."""
        if not 0 <= user < self.n_users:
            raise IndexError(f"user {user} is not in 0..{self.n_users - 1}")
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def of(self, users: npt.NDArray[np.int64]) -> Sequences:
        """The histories of some users ``[U]``, at least one, over the same catalogue."""
        histories = [self.history(int(user)) for user in users]
        bounds = _bounds(np.array([len(each) for each in histories]))
        return Sequences(self.name, bounds, np.concatenate(histories), self.item_tokens, self.user_tokens[users])

    @property
    def digest(self) -> str:
        """SHA-256 of the content (not of the name), in hexadecimal; the same on every machine."""
        sha = hashlib.sha256()
        for numbers in (self.indptr.astype("<i8"), self.items.astype("<i4")):
            sha.update(len(numbers).to_bytes(8, "little") + numbers.tobytes())
        for tokens in (self.item_tokens, self.user_tokens):
            encoded = [str(token).encode() for token in tokens]
            sha.update(len(encoded).to_bytes(8, "little") + np.array([len(t) for t in encoded], "<i8").tobytes())
            sha.update(b"".join(encoded))
        return sha.hexdigest()

    @property
    def train(self) -> Sequences:
        """The same users and items without each user's last two interactions.

        Raises:
            DataError: a user has fewer than three interactions.
        """
        self.require_targets()
        lengths = np.diff(self.indptr)
        left = np.arange(self.n_interactions) - np.repeat(self.indptr[:-1], lengths)
        items = self.items[left < np.repeat(lengths - 2, lengths)]
        return Sequences(self.name, _bounds(lengths - 2), items, self.item_tokens, self.user_tokens)

    @property
    def valid(self) -> HeldOut:
        """The second-last item of every user, to choose checkpoints by; raises as :attr:`train`."""
        self.require_targets()
        return HeldOut(self, 2)

    @property
    def test(self) -> HeldOut:
        """The last item of every user; raises as :attr:`train`."""
        self.require_targets()
        return HeldOut(self, 1)

    def require_targets(self) -> None:
        """Check that every user has a history and two targets.

        Raises:
            DataError: a user has fewer than three interactions.
        """
        lengths = np.diff(self.indptr)
        if not len(short := np.flatnonzero(lengths < MIN_INTERACTIONS)):
            return
        first = f"user '{self.user_tokens[short[0]]}' has {lengths[short[0]]} interaction(s)"
        raise DataError(
            f"{self.name}: {first}; leave-one-out needs {MIN_INTERACTIONS} and {len(short)} user(s) have fewer; "
            f'set user_inter_num_interval = "[{MIN_INTERACTIONS},inf)"'
        )


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Leave-one-out view: each user's ``offset``-th item from the end, and the history before it."""

    sequences: Sequences
    offset: int

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """The held-out item id of every user, [n_users]."""
        return self.sequences.items[self.sequences.indptr[1:] - self.offset].astype(np.int64)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of items before the target of every user, [n_users]."""
        return np.diff(self.sequences.indptr) - self.offset

    def histories(self, users: npt.ArrayLike, max_length: int) -> npt.NDArray[np.int64]:
        """Return the last ``max_length`` items before each target.

        Args:
            users: [B] user numbers 0..n_users-1.
            max_length: longest history.

        Returns:
            [B, T] item ids, padded on the right with 0; T is the longest history of the batch.

        Raises:
            IndexError: a user is out of range.
        """
        chosen = np.asarray(users, dtype=np.int64)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < self.sequences.n_users:
            raise IndexError(f"users must be in 0..{self.sequences.n_users - 1}")
        ends = self.sequences.indptr[chosen + 1] - self.offset
        lengths = np.minimum(ends - self.sequences.indptr[chosen], max_length)
        steps = np.arange(lengths.max(initial=0))
        filled = steps < lengths[:, None]
        positions = np.where(filled, (ends - lengths)[:, None] + steps, 0)
        return np.where(filled, self.sequences.items[positions], 0).astype(np.int64)


def sequences_from_rows(
    name: str,
    users: npt.NDArray[np.int32],
    items: npt.NDArray[np.int32],
    times: npt.NDArray[Any],
    user_tokens: npt.NDArray[np.str_],
    item_tokens: npt.NDArray[np.str_],
) -> Sequences:
    """Number users and items by first appearance and put each user's rows in order of time; ties keep their order.

    Args:
        name: dataset name.
        users: [n] position of each row's user in ``user_tokens``.
        items: [n] position of each row's item in ``item_tokens``.
        times: [n] any numbers that sort.
        user_tokens: tokens, some of which may not occur.
        item_tokens: tokens, some of which may not occur.
    """
    user_ids, seen_users = pd.factorize(users)
    item_ids, seen_items = pd.factorize(items)
    order = np.lexsort((times, user_ids))
    return Sequences(
        name=name,
        indptr=_bounds(np.bincount(user_ids)),
        items=(item_ids[order] + 1).astype(np.int32),
        item_tokens=np.concatenate((["[PAD]"], item_tokens[seen_items])),
        user_tokens=user_tokens[seen_users],
    )


def _bounds(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
