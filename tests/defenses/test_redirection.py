"""Gradient redirection: the costs are those of a student's gradients, and the order is the best that is allowed."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gro.config import ModelSettings
from gro.data import Sequences
from gro.defenses.base import Answer
from gro.defenses.pipeline import Defended
from gro.defenses.redirection import Redirection, kernel_costs
from gro.errors import ConfigError
from gro.models import BERT4Rec, Popularity, StateRecommender, build
from gro.ranking import top_k

N_ITEMS = 12
HISTORIES = torch.tensor([[1, 2, 3], [7, 0, 0], [4, 9, 0], [12, 12, 5]])


def weights(k: int) -> Tensor:
    return 1 / torch.arange(2, k + 2, dtype=torch.float64).log2()


def gradient(state: Tensor, table: Tensor, bias: Tensor, order: Tensor, *, normalised: bool = True) -> Tensor:
    """Of the discounted cross entropy of an order of items, or of minus its scores alone, in state and table."""
    state, table = state.detach().double().requires_grad_(), table.detach().double().requires_grad_()
    scores = table @ state + bias.detach().double()
    said = scores.log_softmax(dim=0) if normalised else scores
    loss = -(weights(len(order)) * said[order - 1]).sum()
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, (state, table))])


@given(st.integers(0, 10**6), st.integers(1, 6), st.data())
def test_costs_are_the_inner_products_of_gradients(seed: int, k: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    state, table, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5,), (N_ITEMS, 5), (N_ITEMS,))
    )
    true = top_k((table @ state + bias)[None], k)
    rows = torch.cat([torch.zeros(1, 5, dtype=torch.float64), table])
    cost = kernel_costs(state[None], rows, true, weights(k))[0]
    one, other = (torch.tensor(data.draw(st.permutations(range(k)))) for _ in range(2))
    lessons = gradient(state, table, bias, true[0, one]) - gradient(state, table, bias, true[0, other])
    found = lessons @ gradient(state, table, bias, true[0], normalised=False)
    assert float(found) == pytest.approx(float(weights(k) @ (cost[one] - cost[other])), rel=1e-9, abs=1e-9)


def target(architecture: str) -> StateRecommender:
    """A model that is sure of what it says."""
    settings = ModelSettings.model_validate(
        {"model": architecture, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "max_length": 4}
    )
    model = build(settings, N_ITEMS).eval()
    with torch.no_grad():
        model.item_embedding.weight.mul_(20)
        if isinstance(model, BERT4Rec):
            model.output_bias.normal_()
    return model


def redirected(part: Redirection, model: StateRecommender, lists: Tensor) -> list[list[int]]:
    answer = Answer(
        model=model,
        histories=HISTORIES,
        scores=model.scores(HISTORIES),
        lists=lists,
        states=None,
        keys=torch.zeros(len(lists), dtype=torch.int64),
        stream=0,
        secret=b"",
    )
    with torch.no_grad():
        return [[int(item) for item in row] for row in part.lists(answer)]


@pytest.mark.parametrize("architecture", ["SASRec", "BERT4Rec"])
@pytest.mark.parametrize(("keep", "displacement"), [(0, None), (2, None), (0, 1), (0, 2), (1, 2), (2, 5)])
def test_no_allowed_order_points_further_away(architecture: str, keep: int, displacement: int | None) -> None:
    k, model = 5, target(architecture)
    bias = model.item_bias()
    bias = torch.zeros(N_ITEMS) if bias is None else bias
    table = model.head.weight[1 : N_ITEMS + 1]
    true = top_k(model.scores(HISTORIES), k)
    ends = (HISTORIES > 0).sum(dim=1, keepdim=True) - 1
    states = model.prefix_states(HISTORIES, ends)[:, 0]
    served = redirected(Redirection(keep=keep, displacement=displacement), model, true)
    for state, row, found in zip(states, true, served, strict=True):
        pull = gradient(state, table, bias, row, normalised=False)
        along = {
            order: float(gradient(state, table, bias, row[list(order)]) @ pull)
            for order in permutations(range(k))
            if order[:keep] == tuple(range(keep))
            and all(abs(place - item) <= (displacement or k) for place, item in enumerate(order))
        }
        chosen = along[tuple(row.tolist().index(item) for item in found)]
        least = min(along.values())
        assert chosen == pytest.approx(least, abs=1e-4 * (max(along.values()) - least))


@pytest.mark.parametrize("displacement", [1, 3, 5])
def test_no_item_moves_further_than_it_may(displacement: int) -> None:
    model = target("SASRec")
    true = top_k(model.scores(HISTORIES), N_ITEMS)
    found = redirected(Redirection(displacement=displacement), model, true)
    steps = [
        max(abs(place - row.index(item)) for place, item in enumerate(after))
        for row, after in zip(true.tolist(), found, strict=True)
    ]
    assert max(steps) == displacement


@pytest.mark.parametrize("displacement", [None, 2])
@pytest.mark.parametrize("keep", [0, 2])
def test_padding_changes_nothing_and_stays_last(keep: int, displacement: int | None) -> None:
    model, part = target("SASRec"), Redirection(keep=keep, displacement=displacement)
    true = top_k(model.scores(HISTORIES), 8)
    sizes = torch.tensor([8, 1, 5, 3])
    padded = redirected(part, model, true.masked_fill(torch.arange(8) >= sizes[:, None], 0))
    for row, (size, found) in enumerate(zip(sizes.tolist(), padded, strict=True)):
        alone = redirected(part, model, true[:, :size])[row] if size > keep else true[row, :size].tolist()
        assert found == alone + [0] * (8 - size)


def test_a_model_without_an_item_table_is_refused(tiny: Sequences) -> None:
    with pytest.raises(ConfigError, match="redirection needs a model with an item table, not Popularity"):
        Defended(Popularity(tiny), [Redirection()], 5, secret=b"", per_history=True).lists(HISTORIES)
