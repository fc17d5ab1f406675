"""Attacks found on a copy, on models whose lists follow what is appended to a history."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gro.audit import poisoning as module
from gro.audit.poisoning import poisoning
from gro.data import HeldOut, Sequences

N_USERS, N_ITEMS = 60, 200


class Follows:
    """Likes the items that come ``step`` times further round the catalogue than the last one of the history."""

    n_items = N_ITEMS

    def __init__(self, step: int = 1, max_length: int = 20) -> None:
        self.step, self.max_length = step, max_length

    def scores(self, histories: Tensor) -> Tensor:
        last = histories.gather(1, (histories != 0).sum(dim=1, keepdim=True) - 1)
        return -((torch.arange(1, N_ITEMS + 1) - self.step * last) % N_ITEMS).float()


class Deaf:
    """Gives everybody the same list."""

    n_items, max_length = N_ITEMS, 20

    def scores(self, histories: Tensor) -> Tensor:
        return torch.arange(N_ITEMS, 0, -1.0).expand(len(histories), -1)


@pytest.fixture(scope="module")
def people() -> HeldOut:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 12, N_USERS)
    tokens = np.array([str(n) for n in range(N_ITEMS + 1)])
    bounds = np.concatenate([[0], lengths.cumsum()])
    items = rng.integers(1, N_ITEMS + 1, lengths.sum()).astype(np.int32)
    return Sequences("toy", bounds, items, tokens, tokens[1 : N_USERS + 1]).test


def test_what_is_found_on_the_target_itself_transfers_whole(people: HeldOut) -> None:
    found = poisoning(Follows(), Follows(), people, seed=0)
    assert found["transfer"] == 1
    assert found["surrogate"] == found["target"]
    assert (found["users"], found["items"]) == (N_USERS, 5)
    chance = 10 / N_ITEMS
    assert found["before"] == pytest.approx(chance, abs=0.08)
    assert found["random"] == pytest.approx(chance, abs=0.08)
    assert found["target"] == pytest.approx(1 - (1 - chance) ** 32, abs=0.12)


def test_a_copy_that_hears_nothing_finds_nothing(people: HeldOut) -> None:
    found = poisoning(Follows(), Deaf(), people, seed=0)
    assert found["transfer"] == 0
    assert found["surrogate"] == found["random"] < found["target"]


def test_an_unlike_copy_transfers_little(people: HeldOut) -> None:
    found = poisoning(Follows(), Follows(step=7), people, seed=0)
    assert abs(found["transfer"]) < 0.2


def test_a_target_that_cannot_be_bent_has_no_transfer(people: HeldOut) -> None:
    found = poisoning(Deaf(), Follows(), people, seed=0)
    assert found["transfer"] is None
    assert found["before"] == found["random"] == found["surrogate"] == found["target"]


@pytest.mark.parametrize("max_length", [1, 5, 7])
def test_short_targets_read_what_was_appended(people: HeldOut, max_length: int) -> None:
    assert poisoning(Follows(max_length=max_length), Follows(), people, seed=1)["target"] > 0.6


def test_a_seed_is_an_attack(people: HeldOut) -> None:
    first, again, other = (poisoning(Follows(), Follows(step=7), people, seed) for seed in (4, 4, 5))
    assert first == again != other


def test_no_more_than_a_hundred_people_are_attacked(people: HeldOut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "USERS", 7)
    assert poisoning(Follows(), Follows(), people, seed=0)["users"] == 7


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=4), st.integers(1, 3))
def test_items_are_appended_behind_the_last_one(rows: list[list[int]], count: int) -> None:
    histories = torch.tensor([row + [0] * (5 - len(row)) for row in rows])
    items = torch.arange(100, 100 + count * len(rows)).view(len(rows), count)
    longer = module._with(histories, items)
    expected = [row + added + [0] * (5 - len(row)) for row, added in zip(rows, items.tolist(), strict=True)]
    assert longer.tolist() == expected
