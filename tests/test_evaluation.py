"""What a report of a theft says, on models whose places are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gro.data import Sequences
from gro.evaluation import shared_by_popularity, theft_report
from gro.metrics import ndcg

N_USERS, N_ITEMS = 40, 50
UNIFORM = np.ones(N_ITEMS, np.int64)


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
    report = theft_report(Knows(30), Knows(20), without, sequences().test, UNIFORM)
    assert report["floor_is"] == best
    assert [report[who]["ndcg@10"] for who in ("target", "surrogate", "floor")] == pytest.approx([0.75, 0.5, 0.25])
    assert report["access_advantage"] == pytest.approx(0.5)
    low, high = report["interval"]["access_advantage"]
    assert low < 0.5 < high


def test_no_advantage_over_a_floor_that_no_target_beats() -> None:
    report = theft_report(Knows(5), Knows(20), {"popularity": Knows(5)}, sequences().test, UNIFORM)
    assert report["access_advantage"] is None
    assert report["interval"]["access_advantage"] is None


def test_places_are_those_that_the_figures_were_made_of() -> None:
    report = theft_report(Knows(30), Knows(20), {"a": Knows(4), "b": Knows(10)}, sequences().test, UNIFORM)
    for name, known in (("target", 30), ("surrogate", 20), ("floor", 10)):
        places = np.array(report["places"][name])
        assert (places == 1).tolist() == [user < known for user in range(N_USERS)]
        assert report[name]["ndcg@10"] == ndcg(places, 10).mean()


def test_overlap_of_a_copy_is_full_where_it_lists_the_same() -> None:
    same = theft_report(Knows(40), Knows(40), {"a": Knows(4)}, sequences().test, UNIFORM)
    other = theft_report(Knows(40), Knows(0), {"a": Knows(4)}, sequences().test, UNIFORM)
    assert (same["rbo@10"], same["agreement@10"]) == pytest.approx((1, 1))
    assert same["shared_by_popularity"] == {"head": 1, "middle": 1, "tail": 1}
    assert other["rbo@10"] < other["agreement@10"] < 1


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(0, 3))
def test_shares_by_popularity_are_those_of_a_loop(seed: int, k: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    n_items = 9
    ours, theirs = (np.argsort(rng.random((5, n_items)), axis=1)[:, :k] + 1 for _ in range(2))
    interactions = rng.integers(0, 10**most + 1, n_items)
    ranked = sorted(range(1, n_items + 1), key=lambda item: (-interactions[item - 1], item))
    before, names = 0, {}
    for item in ranked:
        thirds = 3 * before / interactions.sum() if interactions.sum() else 0
        names[item] = "head" if thirds < 1 else "middle" if thirds < 2 else "tail"
        before += interactions[item - 1]
    found: dict[str, list[bool]] = {"head": [], "middle": [], "tail": []}
    for mine, other in zip(ours.tolist(), theirs.tolist(), strict=True):
        for item in mine:
            found[names[item]].append(item in other)
    expected = {name: float(np.mean(hits)) if hits else None for name, hits in found.items()}
    assert shared_by_popularity(ours, theirs, interactions) == expected
