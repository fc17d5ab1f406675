from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gro.losses import ranking_loss
from gro.optimizer.swap import order_loss, worst_order

LEVELS = st.sampled_from([-2.0, -0.5, 0.0, 0.5, 1.0])


@given(st.data(), st.integers(1, 6), st.integers(0, 7))
def test_no_order_that_keeps_the_frozen_ranks_hurts_more(data: st.DataObject, k: int, frozen: int) -> None:
    n = 8
    scores = torch.tensor([data.draw(st.lists(LEVELS, min_size=n, max_size=n)) for _ in range(2)])
    gradient = torch.tensor([data.draw(st.lists(LEVELS, min_size=k, max_size=k)) for _ in range(2)])
    items = torch.tensor([data.draw(st.permutations(range(n)))[:k] for _ in range(2)])
    found = worst_order(scores, items, gradient, frozen)
    assert torch.equal(found[:, :frozen], items[:, :frozen])
    assert torch.equal(found.sort(dim=1).values, items.sort(dim=1).values)
    for row in range(2):
        fixed, moved = items[row, :frozen].tolist(), items[row, frozen:].tolist()
        most = max(gradient[row] @ scores[row, [*fixed, *order]] for order in permutations(moved))
        assert (gradient[row] @ scores[row, found[row]]).item() == pytest.approx(most.item(), abs=1e-6)


def test_the_order_by_hand() -> None:
    scores, items = torch.tensor([[5.0, 1.0, 4.0, 2.0, 3.0]]), torch.tensor([[4, 0, 3, 1]])
    assert worst_order(scores, items, torch.tensor([[-3.0, -1.0, 2.0, 1.0]])).tolist() == [[1, 3, 0, 4]]
    assert worst_order(scores, items, torch.tensor([[-3.0, -1.0, 2.0, 1.0]]), frozen=2).tolist() == [[4, 0, 3, 1]]
    assert worst_order(scores, items, torch.tensor([[-3.0, -1.0, 1.0, 2.0]]), frozen=1).tolist() == [[4, 1, 3, 0]]


@pytest.mark.parametrize("slope", [-1.0, 0.0, 2.0])
def test_a_list_whose_places_are_alike_stays(slope: float) -> None:
    scores = torch.randn(3, 9)
    items = torch.randn(3, 9).topk(6).indices
    assert torch.equal(worst_order(scores, items, torch.full((3, 6), slope)), items)


def test_the_students_loss_rises_as_the_gradient_says() -> None:
    """Of the paper's loss: the worst order of 64 lists costs more than theirs and than others at random."""
    scores, negatives = torch.randn(64, 30).double() * 0.1, torch.randn(64, 8).double() * 0.1
    items = torch.randn(64, 30).topk(8).indices

    def loss(order: torch.Tensor) -> float:
        return ranking_loss(scores.gather(1, order), negatives).item()

    listed = scores.gather(1, items).requires_grad_()
    (gradient,) = torch.autograd.grad(ranking_loss(listed, negatives), listed)
    worst = loss(worst_order(scores, items, gradient))
    assert worst > loss(items)
    assert worst > max(loss(items[:, torch.randperm(8)]) for _ in range(20))


def test_the_order_is_learnt_and_the_list_stays() -> None:
    scores = torch.randn(4, 60)
    items = scores.topk(20).indices
    wanted = torch.cat([items[:, :3], items[:, 3:][:, torch.randperm(17)]], dim=1)
    learnt = scores.clone().requires_grad_()
    optimizer = torch.optim.SGD([learnt], lr=0.5)
    assert order_loss(scores, items, items).item() == 0
    before = order_loss(scores, items, wanted).item()
    for _ in range(600):
        optimizer.zero_grad()
        order_loss(learnt, items, wanted).backward()
        optimizer.step()
    assert order_loss(learnt, items, wanted).item() < 0.02 * before
    best = learnt.topk(20).indices
    assert (best[:, :3] == wanted[:, :3]).float().mean() > 0.9
    place = torch.arange(60).expand(4, -1).clone().scatter(1, best, torch.arange(20).expand(4, -1))
    assert (place.gather(1, wanted) - torch.arange(20)).abs().float().mean() < 0.5
    kept = (best[:, :, None] == items[:, None]).any(dim=1).float().mean()
    assert kept > 0.98


def test_the_order_loss_is_zero_for_the_wanted_order_alone() -> None:
    """Ties included: a list of equal scores has every order."""
    scores = torch.tensor([[4.0, 3.0, 2.0, 2.0]])
    items = torch.tensor([[0, 1, 2, 3]])
    zero = [order for order in permutations(range(4)) if order_loss(scores, items, torch.tensor([order])).item() == 0]
    assert zero == [(0, 1, 2, 3), (0, 1, 3, 2)]


def test_every_misplaced_item_is_pulled_at_and_no_other() -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0]], requires_grad=True)
    order_loss(scores, torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0, 3, 2, 1]])).backward()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, torch.tensor([[0.0, 1.0, 0.0, -1.0, 0.0]]) / 4)
