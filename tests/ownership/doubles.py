"""Models that are tables, and what is asked of every test by a secret: that its p-values are exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from gro.metrics import FloatArray
from gro.models import Recommender
from gro.models.base import lengths
from gro.ownership.calibration import weigh
from gro.ownership.promotion import Promotion
from gro.ownership.suspect import Suspect, in_hand
from gro.ownership.triggers import Triggers

KEYS, DRAWS, LISTED = 200, 99, 5
NEVER = 1e-7
"""Probability of a failure by chance."""


class Table:
    """A recommender whose scores ``[n_items + 1, n_items]`` depend on the last item of a history alone."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.n_items, self.max_length = table, table.shape[1], 50

    def scores(self, histories: Tensor) -> Tensor:
        return self.table[histories.gather(1, lengths(histories)[:, None] - 1)[:, 0]]


def rough(seed: int, n_items: int, loved: Sequence[int] = (), love: float = 0.0) -> Table:
    """Random scores, higher for the loved items; as in every catalogue, some items are listed far more often."""
    table = torch.rand(n_items + 1, n_items, generator=torch.Generator().manual_seed(seed))
    table = table + torch.linspace(0, 1, n_items)
    table[:, [item - 1 for item in loved]] += love
    return Table(table)


@dataclass(frozen=True)
class Finds:
    """A mark, or a likeness, that asks nothing: other secrets read normal numbers."""

    value: float
    name: str = "finds"
    calls: int = 0

    def examine(self, suspect: Suspect, draws: int) -> tuple[float, FloatArray]:
        return self.value, np.random.default_rng([*self.name.encode()]).standard_normal(draws)

    def another(self, key: bytes) -> Self:
        return replace(self, value=0.0)

    def statistic(self, suspect: Suspect) -> float:
        return self.value


def require_exact(model: Recommender, *marks: Triggers | Promotion, seed: int = 0) -> None:
    """Put the marks of many owners, who know nothing of the model, to it.

    A claim at any level must be as rare as the level says, and p-values uniform where ties are broken by lot. Names
    differ, and so do the other secrets that are tried.
    """
    rng = np.random.default_rng(seed)
    plain, smooth = np.empty((2, KEYS))
    for number in range(KEYS):
        drawn = [replace(mark.another(rng.bytes(32)), name=f"{mark.name}.{number}") for mark in marks]
        statistic, null = list(weigh(in_hand(model, k=LISTED), drawn, DRAWS).values())[-1]
        plain[number], smooth[number] = null.p_value(statistic), null.p_value(statistic, rng.random())
    for level in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        assert stats.binom.sf((plain <= level).sum() - 1, KEYS, level) > NEVER
    assert stats.kstest(smooth, "uniform").pvalue > NEVER
