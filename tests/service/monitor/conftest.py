"""A service of which everything is known, people who use it, and thieves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from gro.service.monitor.calibration import Calibration, calibrate

N_ITEMS, GROUPS, K = 300, 10, 30
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Call:
    account: str
    time: float
    history: Ids
    listed: Ids


class World:
    """Items in ten groups; the service lists items of the last item's group, and people mostly stay in theirs."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def answer(self, history: Ids) -> Ids:
        """Items of the group of the last item, in an order of the whole history's."""
        order = np.random.default_rng(int(history.sum()) % 2**32)
        group = int(history[-1]) % GROUPS
        inside = np.arange(group or GROUPS, N_ITEMS + 1, GROUPS)
        return order.permutation(inside)[:K].astype(np.int64)

    def calls(self, account: str, length: int, pick: Callable[[Ids, Ids], int], start: float = 1e9) -> Iterator[Call]:
        """Grow a history, a call an item."""
        history, now = np.array([self.anything()], np.int64), start
        for _ in range(length):
            listed = self.answer(history)
            yield Call(account, now, history, listed)
            history = np.append(history, pick(history, listed))
            now += float(self.rng.exponential(60))

    def anything(self) -> int:
        return int(self.rng.integers(1, N_ITEMS + 1))

    def person(self, fickle: float) -> Callable[[Ids, Ids], int]:
        """Goes on in the group, at times elsewhere; looks at the first places most."""

        def pick(history: Ids, listed: Ids) -> int:
            if self.rng.random() < fickle:
                return self.anything()
            return int(listed[min(int(self.rng.exponential(6)), len(listed) - 1)])

        return pick

    def people(self, n: int, prefix: str = "user") -> list[Call]:
        calls: list[Call] = []
        for number in range(n):
            length = int(self.rng.integers(10, 60))
            calls.extend(self.calls(f"{prefix}-{number}", length, self.person(float(self.rng.beta(4, 6)))))
        return calls


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    return calibrate(World(0).people(400))


@pytest.fixture
def world() -> type[World]:
    return World
