from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gro.losses import listwise_loss, ranking_loss, sample_negatives
from gro.losses import plackett_luce as per_place

SEEDS = st.integers(0, 2**31)
MARGINS = st.floats(0, 2)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SEEDS, st.integers(1, 4), st.integers(1, 6), MARGINS, MARGINS)
def test_ranking_loss_is_equation_4_as_means(seed: int, b: int, k: int, m1: float, m2: float) -> None:
    listed, negatives = normal(b, k, seed=seed), normal(b, k, seed=seed + 1)
    order, outside = [], []
    for row, others in zip(listed.tolist(), negatives.tolist(), strict=True):
        order += [max(0.0, row[i + 1] - row[i] + m1) for i in range(k - 1)]
        outside += [max(0.0, others[i] - row[i] + m2) for i in range(k)]
    expected = (sum(order) / len(order) if order else 0.0) + sum(outside) / len(outside)
    assert ranking_loss(listed, negatives, order_margin=m1, negative_margin=m2).item() == pytest.approx(expected)


def test_ranking_loss_margins_are_the_papers() -> None:
    listed, negatives = normal(3, 5), normal(3, 5, seed=1)
    explicit = ranking_loss(listed, negatives, order_margin=0.5, negative_margin=0.5)
    assert ranking_loss(listed, negatives).item() == explicit.item()


def test_ranking_loss_is_zero_exactly_where_every_margin_is_kept() -> None:
    listed, negatives = torch.tensor([[2.0, 1.5, 1.0]]), torch.tensor([[0.5, 0.5, 0.5]])
    assert ranking_loss(listed, negatives).item() == 0
    assert ranking_loss(listed, negatives + torch.tensor([0.0, 0.0, 0.3])).item() == pytest.approx(0.1)
    assert ranking_loss(listed[:, [1, 0, 2]], negatives).item() == pytest.approx(0.5)


def test_ranking_loss_of_lists_of_one_has_no_order() -> None:
    assert ranking_loss(torch.tensor([[0.0]]), torch.tensor([[1.0]])).item() == 1.5


def plackett_luce(order: list[int], scores: list[float]) -> float:
    """Probability of a top-k list: a softmax over the items that are left, drawn again for each place."""
    left, probability = dict(enumerate(scores)), 1.0
    for item in order:
        probability *= math.exp(left[item]) / sum(math.exp(score) for score in left.values())
        del left[item]
    return probability


@given(SEEDS, st.integers(1, 7), st.data())
def test_listwise_loss_is_the_plackett_luce_likelihood(seed: int, n: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    scores = normal(n, seed=seed)
    expected = -math.log(plackett_luce(order, scores.tolist())) / len(order)
    assert listwise_loss(scores, torch.tensor(order)).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_likelihoods_of_all_lists_sum_to_one() -> None:
    scores, k = normal(5), 3
    lists = torch.tensor(list(permutations(range(5), k)))
    likelihoods = [math.exp(-k * listwise_loss(scores, order).item()) for order in lists]
    assert sum(likelihoods) == pytest.approx(1)


def test_listwise_loss_gradient_is_that_of_the_sequential_softmax() -> None:
    scores = normal(2, 6).requires_grad_()
    order = torch.tensor([[4, 0, 2], [1, 5, 3]])
    left = scores
    steps = []
    for place in range(order.shape[1]):
        steps.append(left.log_softmax(-1).gather(1, order[:, place : place + 1]))
        left = left.scatter(1, order[:, : place + 1], -torch.inf)
    (expected,) = torch.autograd.grad(-torch.cat(steps).mean(), scores)
    (found,) = torch.autograd.grad(listwise_loss(scores, order), scores)
    torch.testing.assert_close(found, expected)


def test_listwise_loss_ignores_a_shift_and_is_least_for_the_descending_order() -> None:
    scores = normal(6)
    lists = torch.tensor(list(permutations(range(6), 3)))
    losses = listwise_loss_each(scores, lists)
    assert lists[losses.argmin()].tolist() == scores.topk(3).indices.tolist()
    torch.testing.assert_close(listwise_loss_each(scores + 7, lists), losses)


def by_autograd(scores: Tensor, columns: Tensor) -> Tensor:
    """The softmax over the items that are left, place by place."""
    left, places = scores, []
    for place in range(columns.shape[-1]):
        column = columns[..., place : place + 1]
        places.append(left.logsumexp(-1, keepdim=True) - left.gather(-1, column))
        left = left.scatter(-1, column, -torch.inf)
    return torch.cat(places, dim=-1)


@given(SEEDS, st.integers(1, 8), st.integers(1, 3), st.data())
def test_every_place_and_its_gradient_are_those_of_plain_autograd(
    seed: int, n: int, lists: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, n))
    scores = (3 * normal(2, lists, n, seed=seed)).requires_grad_()
    columns = normal(2, lists, n, seed=seed + 1).argsort(dim=-1)[..., :k]
    found, expected = per_place(scores, columns), by_autograd(scores, columns)
    torch.testing.assert_close(found, expected)
    weights = normal(2, lists, k, seed=seed + 2)
    ours, theirs = (torch.autograd.grad((each * weights).sum(), scores)[0] for each in (found, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_gradient_is_that_of_finite_differences(k: int) -> None:
    scores = normal(2, 5).requires_grad_()
    columns = normal(2, 5, seed=1).argsort(dim=-1)[:, :k]
    assert torch.autograd.gradcheck(lambda s: per_place(s, columns), (scores,))


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, 1e2), (torch.float32, 1e4), (torch.float64, 1e2), (torch.float64, 1e4), (torch.float64, 1e8)],
)
@pytest.mark.parametrize("k", [2, 6])
def test_scores_far_apart_lose_neither_value_nor_gradient(k: int, scale: float, dtype: torch.dtype) -> None:
    scores = (scale * normal(3, 6)).to(dtype).requires_grad_()
    columns = normal(3, 6, seed=1).argsort(dim=-1)[:, :k]
    found, expected = per_place(scores, columns), by_autograd(scores, columns)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(each.sum(), scores)[0] for each in (found, expected))
    rounding = 4 * scale * torch.finfo(dtype).eps  # exponents of differences of scores of this size
    torch.testing.assert_close(ours, theirs, atol=rounding, rtol=rounding)
    torch.testing.assert_close(ours.sum(dim=-1), torch.zeros(3, dtype=dtype), atol=6 * rounding, rtol=0)


def test_the_scores_are_left_as_they_are() -> None:
    scores = normal(2, 5)
    before = scores.clone()
    per_place(scores, torch.tensor([[0, 1], [2, 3]]))
    assert torch.equal(scores, before)


def listwise_loss_each(scores: Tensor, lists: Tensor) -> Tensor:
    return torch.stack([listwise_loss(scores, order) for order in lists])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_listwise_loss_stays_finite_where_the_list_holds_all_the_mass(dtype: torch.dtype) -> None:
    scores = torch.tensor([[60.0, 30.0, 0.0, -30.0]], dtype=dtype).requires_grad_()
    loss = listwise_loss(scores, torch.tensor([[0, 1, 2]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@settings(max_examples=50)
@given(SEEDS, st.integers(1, 5), st.integers(1, 6))
def test_negatives_lie_outside_their_own_list(seed: int, b: int, k: int) -> None:
    torch.manual_seed(seed)
    n_items = 8000
    items = torch.stack([torch.randperm(n_items)[:k] + 1 for _ in range(b)])
    negatives = sample_negatives(items, n_items)
    assert negatives.shape == items.shape
    assert negatives.dtype == torch.int64
    assert 1 <= negatives.min() <= negatives.max() <= n_items
    assert not (negatives[:, :, None] == items[:, None, :]).any()


def test_negatives_of_stacked_lists_are_outside_their_own_list() -> None:
    torch.manual_seed(0)
    items = torch.arange(1, 61).view(3, 4, 5)
    negatives = sample_negatives(items, 4000)
    assert negatives.shape == items.shape
    assert not (negatives[..., :, None] == items[..., None, :]).any()


def test_negatives_are_uniform_over_the_rest_of_the_catalogue() -> None:
    torch.manual_seed(0)
    n_items, listed = 40, torch.tensor([7, 40, 1, 19])
    drawn = sample_negatives(listed.repeat(5000, 1), n_items).flatten()
    counts = drawn.bincount(minlength=n_items + 1)[1:]
    outside = torch.ones(n_items, dtype=torch.bool)
    outside[listed - 1] = False
    expected = len(drawn) / outside.sum().item()
    assert counts[~outside].sum() < 20  # 2 are expected
    assert (counts[outside] - expected).abs().max() < 5 * math.sqrt(expected)


def test_collisions_are_as_rare_as_stated() -> None:
    torch.manual_seed(0)
    drawn = sample_negatives(torch.arange(1, 6).repeat(20_000, 1), 10)
    assert (drawn <= 5).double().mean().item() == pytest.approx(0.5**4, rel=0.05)


def test_negatives_follow_the_seed() -> None:
    items = torch.arange(1, 5)[None]
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(sample_negatives(items, 900))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
