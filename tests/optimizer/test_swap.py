from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import gro
from gro.losses import ranking_loss
from gro.optimizer.swap import swap_loss, swap_targets

SEEDS = st.integers(0, 2**31)
StudentLoss = Callable[[Tensor], Tensor]


def literal(target: Tensor, student: Tensor, items: Tensor, losses: list[StudentLoss], margin: float) -> Tensor:
    """Swap loss with the paper's swap matrices: ``A`` and ``A'`` are built, ``dL_s/dA`` comes from autograd."""
    rows = []
    for t, s, listed, loss in zip(target, student, items, losses, strict=True):
        a = F.one_hot(listed, len(t)).to(t.dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(a @ s), a)
        still = (gradient == 0).all(dim=1, keepdim=True)
        swapped = F.one_hot(gradient.argmax(dim=1), len(t)).to(t.dtype)
        swapped = torch.where(still, a.detach(), swapped)
        rows.append(F.relu((a.detach() - swapped) @ t + margin))
    return torch.stack(rows).mean()


def list_gradients(student: Tensor, items: Tensor, losses: list[StudentLoss]) -> Tensor:
    listed = student.gather(1, items).detach().requires_grad_()
    total = torch.stack([loss(row) for loss, row in zip(losses, listed, strict=True)]).sum()
    return torch.autograd.grad(total, listed)[0]


def assert_same(target: Tensor, student: Tensor, items: Tensor, losses: list[StudentLoss], margin: float) -> None:
    gradient = list_gradients(student, items, losses)
    ours, theirs = target.clone().requires_grad_(), target.clone().requires_grad_()
    found = swap_loss(ours, student, items, gradient, margin)
    expected = literal(theirs, student, items, losses, margin)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(found, ours)[0], torch.autograd.grad(expected, theirs)[0], rtol=1e-12, atol=1e-12
    )


@given(SEEDS, st.integers(1, 4), st.integers(2, 15), st.data(), st.sampled_from([0.0, 0.5, 3.0]))
def test_equals_the_swap_matrix_under_the_papers_student_loss(
    seed: int, b: int, n: int, data: st.DataObject, margin: float
) -> None:
    k = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    target, student = torch.randn(2, b, n, generator=generator, dtype=torch.float64)
    negatives = torch.randn(b, k, generator=generator, dtype=torch.float64)
    losses: list[StudentLoss] = [partial(ranking_loss, negatives=row) for row in negatives]
    assert_same(target, student, target.topk(k).indices, losses, margin)


@given(st.data(), st.sampled_from([0.0, 1.0]))
def test_equals_the_swap_matrix_for_tied_scores_and_any_gradient(data: st.DataObject, margin: float) -> None:
    n = data.draw(st.integers(2, 7))
    k, levels = data.draw(st.integers(1, n)), st.sampled_from([-2.0, -1.0, 1.0, 2.0])
    row = st.lists(levels, min_size=n, max_size=n)
    target, student = (torch.tensor([data.draw(row)], dtype=torch.float64) for _ in range(2))
    slope = torch.tensor(data.draw(st.lists(st.sampled_from([-1.5, 0.0, 0.25]), min_size=k, max_size=k))).double()
    items = torch.tensor([data.draw(st.permutations(range(n)))[:k]])
    # Kinks: where t[a_i] - t[a'_i] + margin is 0 both forms take relu's own subgradient, and tied decoys the first.
    assert_same(target, student, items, [lambda z: (slope * z).sum()], margin)


def test_by_hand() -> None:
    target = torch.tensor([[5.0, 4.0, 3.0, 2.0]], requires_grad=True)
    student = torch.tensor([[0.0, 3.0, 1.0, -2.0]])
    items, gradient = torch.tensor([[0, 1, 2]]), torch.tensor([[0.1, -0.2, 0.0]])
    assert swap_targets(student, items, gradient).tolist() == [[1, 3, 2]]
    loss = swap_loss(target, student, items, gradient, margin=0.5)
    assert loss.item() == pytest.approx((1.5 + 2.5 + 0.5) / 3)
    loss.backward()
    assert target.grad is not None
    torch.testing.assert_close(target.grad, torch.tensor([[1.0, 0.0, 0.0, -1.0]]) / 3)


def test_rows_without_a_gradient_stay() -> None:
    target, student = torch.randn(2, 3, 9, dtype=torch.float64)
    items = target.topk(4).indices
    assert torch.equal(swap_targets(student, items, torch.zeros(3, 4)), items)
    assert swap_loss(target, student, items, torch.zeros(3, 4).double()).item() == 0
    assert swap_loss(target, student, items, torch.zeros(3, 4).double(), margin=0.7).item() == pytest.approx(0.7)


def test_only_the_sign_of_the_gradient_matters() -> None:
    target, student, gradient = torch.randn(3, 4, 8, dtype=torch.float64)
    items = target.topk(8).indices
    once, scaled = (swap_loss(target, student, items, factor * gradient) for factor in (1, 1e-9))
    assert once.item() == scaled.item()


def test_a_swap_that_leads_by_the_margin_costs_nothing() -> None:
    student, items, gradient = torch.tensor([[0.0, 1.0]]), torch.tensor([[0]]), torch.ones(1, 1)
    for lead, margin, expected in ((0.5, 0.5, 0.0), (0.5, 0.75, 0.25), (-1.0, 0.0, 1.0)):
        assert swap_loss(torch.tensor([[0.0, lead]]), student, items, gradient, margin).item() == expected


def test_the_student_gets_no_gradient() -> None:
    target, student, gradient = (torch.randn(2, 6, requires_grad=True) for _ in range(3))
    swap_loss(target, student, target.topk(6).indices, gradient, 5.0).backward()
    assert target.grad is not None
    assert target.grad.abs().sum() > 0
    assert student.grad is None
    assert gradient.grad is None


def test_it_is_public() -> None:
    assert gro.swap_loss is swap_loss
