from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from gro.ownership.suspect import Suspect
from gro.ownership.verdict import judge


@dataclass(frozen=True)
class Finds:
    """A test that asks nothing."""

    value: float
    name: str = "finds"
    calls: int = 0

    def statistic(self, suspect: Suspect) -> float:
        return self.value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_verdict(value: float) -> None:
    suspect = Suspect(lambda histories: torch.ones(len(histories), 1, dtype=torch.int64), n_items=5, k=1)
    found = judge(suspect, [Finds(value)], [])
    assert (found.verdict, found.reason) == ("inconclusive", "a test found no number in what the suspect answers")
