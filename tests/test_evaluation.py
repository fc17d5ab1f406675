"""What a report of a theft says, on models whose places are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gro.data import Sequences
from gro.evaluation import theft_report

N_USERS, N_ITEMS = 40, 50


class Knows:
    """Ranks the next item of users whose number is below ``known`` first and everybody else's last."""

    n_items, max_length = N_ITEMS, 3

    def __init__(self, known: int) -> None:
        self.known = known

    def scores(self, histories: Tensor) -> Tensor:
        scores = torch.arange(N_ITEMS, 0, -1.0).repeat(len(histories), 1)
        user = histories[:, 0] - 1
        scores[torch.arange(len(user)), user + 1] = torch.where(user < self.known, 99.0, -99.0)
        return scores


def sequences() -> Sequences:
    rows = [[user + 1, N_ITEMS, N_ITEMS, user + 2] for user in range(N_USERS)]
    tokens = np.array([str(item) for item in range(N_ITEMS + 1)])
    bounds = np.arange(0, 4 * N_USERS + 1, 4)
    return Sequences("toy", bounds, np.array(rows, np.int32).ravel(), tokens, tokens[1 : N_USERS + 1])


@pytest.mark.parametrize(("floors", "best"), [({"a": 4, "b": 10}, "b"), ({"a": 10, "b": 4}, "a"), ({"b": 10}, "b")])
def test_a_copy_is_measured_from_the_best_floor(floors: dict[str, int], best: str) -> None:
    without = {name: Knows(known) for name, known in floors.items()}
    report = theft_report(Knows(30), Knows(20), without, sequences().test)
    assert report["floor_is"] == best
    assert [report[who]["ndcg@10"] for who in ("target", "surrogate", "floor")] == pytest.approx([0.75, 0.5, 0.25])
    assert report["access_advantage"] == pytest.approx(0.5)
    low, high = report["interval"]["access_advantage"]
    assert low < 0.5 < high


def test_no_advantage_over_a_floor_that_no_target_beats() -> None:
    report = theft_report(Knows(5), Knows(20), {"popularity": Knows(5)}, sequences().test)
    assert report["access_advantage"] is None
    assert report["interval"]["access_advantage"] is None
