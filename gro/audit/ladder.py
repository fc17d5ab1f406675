"""A ladder of budgets, and what a thief's copy is worth on its rungs and between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from gro.metrics import access_advantage

FIRST, STEPS = 100, (1, 3)
"""Budgets are 100, 300, 1,000, 3,000 and so on: the same for all policies, which share the thefts."""
APART = 1.5
"""The last budget of a ladder is at least so many times the one before it."""


def ladder(most: int) -> list[int]:
    """Budgets in calls, the last of them ``most``: round ones below it, then itself."""
    rungs = [FIRST * 10**decade * step for decade in range(len(str(most))) for step in STEPS]
    return [*(rung for rung in rungs if APART * rung <= most), most]


@dataclass(frozen=True)
class Curve:
    """What one thief's copy is worth by the calls that it cost.

    Attributes:
        thief: name of the card.
        knowledge: its threat model.
        target: NDCG@10 of the target.
        floor: NDCG@10 of what the thief has without a call.
        calls: budgets that were played, in rising order.
        ndcg: NDCG@10 of each copy.
    """

    thief: str
    knowledge: str
    target: float
    floor: float
    calls: tuple[int, ...]
    ndcg: tuple[float, ...]

    def at(self, calls: int) -> dict[str, Any] | None:
        """The copy that ``calls`` buy, between budgets by PCHIP in log calls; ``None`` outside those played.

        PCHIP (Fritsch & Butland 1984) rises only where the budgets around it do: it adds no bump of its own.
        """
        if not self.calls[0] <= calls <= self.calls[-1]:
            return None
        bought = float(self._through(np.log(calls))) if len(self.calls) > 1 else self.ndcg[0]
        advantage = access_advantage(bought, self.floor, self.target)
        return {
            "thief": self.thief,
            "knowledge": self.knowledge,
            "ndcg@10": bought,
            "access_advantage": None if math.isnan(advantage) else advantage,
        }

    @cached_property
    def _through(self) -> PchipInterpolator:
        return PchipInterpolator(np.log(self.calls), self.ndcg)
