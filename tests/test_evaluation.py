"""What a report of a theft says, on models whose places are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gro.config import ModelSettings
from gro.data import Sequences
from gro.evaluation import loss_report, shared_by_popularity, theft_report, utility_of, utility_report
from gro.metrics import ndcg
from gro.models import build
from gro.ranking import ranks
from gro.subgroups import group_loss, least_typical, typicality

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


def test_a_model_is_worth_what_its_places_are() -> None:
    held_out = sequences().test
    assert utility_report(Knows(9), held_out, seed=3) == utility_of(ranks(Knows(9), held_out), seed=3)


def test_groups_of_a_loss_report_are_those_of_a_loop(tiny: Sequences) -> None:
    plain = build(ModelSettings(hidden_size=8, inner_size=8, max_length=6), tiny.n_items).eval()
    served = np.random.default_rng(0).integers(1, tiny.n_items + 1, tiny.n_users)
    report = loss_report(plain, served, tiny, seed=5)
    counts = np.bincount(np.concatenate([tiny.history(user)[:-2] for user in range(tiny.n_users)]), minlength=21)
    ranked = sorted(range(1, 21), key=lambda item: (-counts[item], item))
    unusual = least_typical(typicality(plain, tiny.test))
    members: dict[tuple[str, ...], list[int]] = {("all",): [*range(tiny.n_users)]}
    for user in range(tiny.n_users):
        *before, following = tiny.history(user).tolist()
        more = sum(counts[item] for item in ranked[: ranked.index(following)]) / counts.sum()
        length = "at most 10" if len(before) <= 10 else "11 to 20"
        popularity = "head" if more < 1 / 3 else "middle" if more < 2 / 3 else "tail"
        typical = "least typical tenth" if unusual[user] else "rest"
        for group in (("history_length", length), ("next_item", popularity), ("typicality", typical)):
            members.setdefault(group, []).append(user)
    before, after = ndcg(ranks(plain, tiny.test), 10), ndcg(served, 10)
    found: dict[tuple[str, ...], Any] = {("all",): report.pop("all")}
    found |= {(kind, name): group for kind, groups in report.items() for name, group in groups.items()}
    assert found == {group: group_loss(before[users], after[users], seed=5) for group, users in members.items()}
    assert len(members) == 8
