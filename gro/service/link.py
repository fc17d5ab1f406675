"""Whether the store that replicas share is there, and what is said when that changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gro.errors import GroError
from gro.service.windows import Cost, Level, Quota


class StoreGoneError(GroError):
    """The store did not answer, or answered with an error."""


class Store(Protocol):
    """Windows that replicas share."""

    async def charge(self, quotas: Sequence[Quota], cost: Cost) -> tuple[str, list[Level]]:
        """Count the cost for every name if all quotas have room for it, and for none otherwise.

        Returns:
            What stays the same until the store is emptied, and how the quotas stood.

        Raises:
            StoreGoneError: no answer in time, or an error. The cost may have been counted.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoreChange:
    """What became of the store: it is gone, it is back, or it lost what it had counted."""

    state: Literal["gone", "back", "emptied"]
    why: str


class Link:
    """A store that is left alone for a while when it failed, so that not every call waits for it.

    Args:
        pause: seconds for which it is left alone; then one call tries.
        clock: seconds.
        told: receives every change.

    Attributes:
        gone: whether the store is gone.
    """

    def __init__(
        self, store: Store, pause: float, clock: Callable[[], float], told: Callable[[StoreChange], None]
    ) -> None:
        self._store, self._pause, self._clock, self._told = store, pause, clock, told
        self.gone = False
        self._again = -math.inf  # when a store that is gone is tried
        self._turns = 0
        self._since: str | None = None

    async def charge(self, quotas: Sequence[Quota], cost: Cost) -> list[Level] | None:
        """As the store does; None where it is gone."""
        if self.gone:
            now = self._clock()
            if 0 < self._again - now <= self._pause:
                return None
            self._again = now + self._pause  # by this call alone
        turns = self._turns
        try:
            since, levels = await self._store.charge(quotas, cost)
        except StoreGoneError as error:
            if turns == self._turns:  # otherwise it says what was before, and not what is
                self._again = self._clock() + self._pause
                self._turn(True, str(error))
            return None
        if turns == self._turns:
            self._turn(False, "it answers again")
            self._compare(since)
        return levels

    def _turn(self, gone: bool, why: str) -> None:
        if gone is not self.gone:
            self.gone = gone
            self._turns += 1
            self._told(StoreChange("gone" if gone else "back", why))

    def _compare(self, since: str) -> None:
        if self._since not in {None, since}:
            self._told(StoreChange("emptied", "its counts are lost; what this replica let through still counts"))
        self._since = since
