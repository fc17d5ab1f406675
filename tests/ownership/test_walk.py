"""The Blind Walk on recommenders of which it is known how far they have to be pushed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gro.ownership.walk import blind_walk

N_ITEMS = 1_000
HISTORIES = torch.arange(1, 601).view(200, 3)


def deaf(histories: Tensor) -> Tensor:
    return torch.tensor([[5, 6]]).expand(len(histories), 2)


def by_last(histories: Tensor) -> Tensor:
    last = histories.gather(1, (histories != 0).sum(dim=1, keepdim=True) - 1)
    return torch.cat([last, last % N_ITEMS + 1], dim=1)


def by_sum(histories: Tensor) -> Tensor:
    return histories.sum(dim=1, keepdim=True)


def test_who_never_changes_is_further_than_all_steps() -> None:
    assert blind_walk(deaf, HISTORIES, N_ITEMS, steps=4).tolist() == [5] * len(HISTORIES)


def test_who_heeds_every_item_is_one_step_away() -> None:
    assert (blind_walk(by_sum, HISTORIES, N_ITEMS, steps=4) == 1).float().mean() > 0.97


def test_who_heeds_one_place_of_three_is_as_far_as_that_place_is_hard_to_hit() -> None:
    found = blind_walk(by_last, HISTORIES, N_ITEMS, steps=40).float()
    assert found.mean() == pytest.approx(3, abs=5 * 6**0.5 / 200**0.5)


def test_histories_that_have_moved_are_asked_no_more() -> None:
    asked: list[int] = []

    def counting(histories: Tensor) -> Tensor:
        asked.append(len(histories))
        return by_last(histories)

    found = blind_walk(counting, HISTORIES, N_ITEMS, steps=40)
    assert asked == [200] + [n for step in range(1, 41) if (n := int((found >= step).sum()))]


def test_a_seed_is_a_walk() -> None:
    one, again, other = (blind_walk(by_last, HISTORIES, N_ITEMS, steps=9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=6), st.integers(1, 6))
def test_edits_replace_items_and_leave_the_padding(rows: list[list[int]], steps: int) -> None:
    histories = torch.tensor([row + [0] * (5 - len(row)) for row in rows])
    seen: list[Tensor] = []

    def watching(asked: Tensor) -> Tensor:
        seen.append(asked.clone())
        return deaf(asked)

    found = blind_walk(watching, histories, 9, steps=steps)
    assert found.tolist() == [steps + 1] * len(rows)
    assert len(seen) == steps + 1
    assert all(torch.equal(asked == 0, histories == 0) for asked in seen)
    assert all(((one != other).sum(dim=1) <= 1).all() for one, other in pairwise(seen))
    assert torch.equal(seen[0], histories)
