"""Real users as callers: who calibrates and who is held out, and the calls they would have made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gro.data import Sequences
from gro.models import PADDING, padded
from gro.service.querylog import Call

Ids = npt.NDArray[np.int64]
TOGETHER = 256
"""Histories that are answered at a time."""


def split(n_users: int, seed: int) -> tuple[Ids, Ids]:
    """Draw two thirds of the users to calibrate on, and hold out the others."""
    drawn = np.random.default_rng(seed).permutation(n_users)
    held_out = n_users // 3
    return np.sort(drawn[held_out:]), np.sort(drawn[:held_out])


class People:
    """Users who ask after each of their items, with their items so far; calls of one come between those of others.

    A dataset's times tell when items were rated, not when lists were asked for: each user's calls lie evenly spread
    over the whole replay, in their order.

    Attributes:
        users: who calls, by number in the dataset ``[U]``.
    """

    def __init__(self, sequences: Sequences, users: Ids, longest: int, seed: int) -> None:
        """Replay ``users``; a call holds the last ``longest`` items of the history, which is all that a model reads."""
        self.users = users
        self._sequences, self._longest, self._seed = sequences, longest, seed

    def __len__(self) -> int:
        """Number of calls."""
        return len(self._turns[0])

    def __iter__(self) -> Iterator[tuple[int, Ids]]:
        """Yield who calls, and with which history, oldest item first."""
        for user, size in zip(*self._turns, strict=True):
            history = self._sequences.history(int(user))[max(0, size - self._longest) : size]
            yield int(user), history.astype(np.int64)

    @cached_property
    def _turns(self) -> tuple[Ids, Ids]:
        """Who calls, and with how many items, in the order of the calls: ``[n_calls]`` each."""
        sizes = np.diff(self._sequences.indptr)[self.users]
        places, items = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) + 1 for size in sizes])
        times = np.random.default_rng(self._seed).random(len(places))
        order = np.argsort(times[np.lexsort((times, places))], kind="stable")
        return self.users[places[order]], items[order]


class Log:
    """The query log of people: read again and again, in little memory, since the lists wait on the disk."""

    def __init__(self, people: People, lists: Path) -> None:
        """Read what :func:`answer` wrote to ``lists``."""
        self._people, self._lists = people, lists

    def __iter__(self) -> Iterator[Call]:
        """Yield the calls; their times are their places in the log."""
        lists = np.load(self._lists, mmap_mode="r")
        for place, (user, history) in enumerate(self._people):
            listed = lists[place].astype(np.int64)
            yield Call(float(place), account(user), history, listed[listed != PADDING])


def answer(people: People, service: Callable[[Tensor], Tensor], k: int, n_items: int, path: Path) -> Log:
    """Have every call of people answered with a list of ``k`` of ``n_items`` items, and write the lists to a file."""
    lists = np.lib.format.open_memmap(path, "w+", np.min_scalar_type(n_items), (len(people), k))
    calls = iter(people)
    for start in range(0, len(people), TOGETHER):
        histories = [history.tolist() for _, history in islice(calls, TOGETHER)]
        lists[start : start + len(histories)] = service(padded(histories)).cpu().numpy()
    lists.flush()
    return Log(people, path)


def account(user: int) -> str:
    """Name of a user's account."""
    return f"user-{user}"
