"""Losses of a thief against what their names promise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gro_surrogates.losses import LOSSES, DistillationLoss, bpr, by_length, discounted, listwise, set_only, trimmed

N_ITEMS = 12
ALL = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def draw(seed: int, n: int = 3, k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(n, N_ITEMS, dtype=torch.float64), torch.rand(n, N_ITEMS).argsort(dim=1)[:, :k] + 1


@given(st.integers(0, 1000))
def test_a_set_has_no_order(seed: int) -> None:
    scores, lists = draw(seed)
    torch.testing.assert_close(set_only(scores, lists), set_only(scores, lists.flip(1)))
    expected = [-scores[i].softmax(0)[row - 1].log().mean() for i, row in enumerate(lists)]
    torch.testing.assert_close(set_only(scores, lists), torch.stack(expected).mean())


@given(st.integers(0, 1000))
def test_discounts_are_those_of_dcg(seed: int) -> None:
    scores, lists = draw(seed)
    weights = [1 / math.log2(place + 1) for place in range(1, 6)]
    expected = sum(
        -w * scores[i].softmax(0)[item - 1].log() / sum(weights) / len(lists)
        for i, row in enumerate(lists.tolist())
        for w, item in zip(weights, row, strict=True)
    )
    torch.testing.assert_close(discounted(scores, lists), expected)


@given(st.integers(0, 1000))
def test_the_worst_fifth_is_left_out(seed: int) -> None:
    scores, lists = draw(seed, n=10)
    single = sorted(listwise(scores[[i]], lists[[i]]).item() for i in range(10))
    assert trimmed(scores, lists).item() == pytest.approx(sum(single[:8]) / 8)
    assert trimmed(scores[:1], lists[:1]).item() == pytest.approx(listwise(scores[:1], lists[:1]).item())


def test_bpr_vanishes_for_a_faithful_copy() -> None:
    lists = torch.tensor([[3, 1, 2]])
    scores = torch.full((1, N_ITEMS), -100.0)
    scores[0, [2, 0, 1]] = torch.tensor([100.0, 60.0, 20.0])
    assert bpr(scores, lists) < 1e-6
    assert bpr(-scores, lists) > 50


@ALL
@given(seed=st.integers(0, 1000))
def test_the_mean_over_lists_of_any_length(loss: DistillationLoss, seed: int) -> None:
    scores, lists = draw(seed, n=4, k=6)
    lists[1, 2:] = 0
    lists[3, 2:] = 0
    torch.manual_seed(seed)
    mixed = loss(scores, lists)
    torch.manual_seed(seed)
    short, full = loss(scores[[1, 3]], lists[[1, 3], :2]), loss(scores[[0, 2]], lists[[0, 2]])
    torch.testing.assert_close(mixed, (short + full) / 2)


@ALL
def test_better_copies_lose_less_and_teach_by_gradients(loss: DistillationLoss) -> None:
    torch.manual_seed(0)
    lists = torch.tensor([[4, 2, 9], [1, 2, 3]])
    scores = torch.zeros(2, N_ITEMS, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    before = loss(scores, lists).item()
    for _ in range(200):
        optimizer.zero_grad()
        loss(scores, lists).backward()
        optimizer.step()
    assert loss(scores, lists).item() < 0.75 * before
    for row, wanted in zip(scores.topk(3).indices + 1, lists, strict=True):
        assert set(row.tolist()) == set(wanted.tolist())


def test_an_empty_tail_is_not_read() -> None:
    seen: list[list[int]] = []

    def loss(scores: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
        seen.append(list(lists.shape))
        return scores.mean()

    by_length(loss)(torch.zeros(3, 5), torch.tensor([[1, 2], [3, 0], [4, 0]]))
    assert sorted(seen) == [[1, 2], [2, 1]]
