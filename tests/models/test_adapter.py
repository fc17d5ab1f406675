from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gro.data import Sequences
from gro.models import Popularity, Recommender, TrainableRecommender, adapt

N_ITEMS = 11


class Mean(nn.Module):
    """Scores from the mean of a history's vectors and its last item's."""

    def __init__(self, n_items: int = N_ITEMS) -> None:
        super().__init__()
        self.table = nn.Embedding(n_items + 1, 6, padding_idx=0)
        self.last = nn.Linear(6, 6)
        self.head = nn.Linear(6, n_items)

    def forward(self, histories: Tensor) -> Tensor:
        length = (histories > 0).sum(1, keepdim=True)
        vectors = self.table(histories)
        last = vectors[torch.arange(len(histories)), length[:, 0] - 1]
        scores: Tensor = self.head(vectors.sum(1) / length + self.last(last))
        return scores


class Ring(nn.Module):
    """Sure that an item is followed by the next id, for whoever reads the history to its end."""

    def forward(self, histories: Tensor) -> Tensor:
        last = histories.gather(1, (histories > 0).sum(1, keepdim=True) - 1)[:, 0]
        return 100.0 * F.one_hot(last % N_ITEMS, N_ITEMS)


def mean_model() -> TrainableRecommender:
    torch.manual_seed(0)
    return adapt(Mean().double(), N_ITEMS, max_length=7)


def draw(*lengths: int) -> Tensor:
    histories = torch.randint(1, N_ITEMS + 1, (len(lengths), max(lengths)))
    return histories * (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


def test_an_adapted_module_scores_as_it_did() -> None:
    model, histories = mean_model(), draw(5, 2)
    assert isinstance(model, Recommender)
    assert isinstance(model, TrainableRecommender)
    assert (model.n_items, model.max_length, model.one_pass) == (N_ITEMS, 7, False)
    torch.testing.assert_close(model.scores(histories), next(model.children())(histories))


def test_prefix_scores_are_the_scores_of_the_cut_history() -> None:
    model, histories = mean_model(), draw(6, 3)
    ends = torch.tensor([[0, 5, 3], [2, 0, 1]])
    found = model.prefix_scores(histories, ends)
    assert found.shape == (2, 3, N_ITEMS)
    for b, row in enumerate(ends.tolist()):
        for j, end in enumerate(row):
            torch.testing.assert_close(found[b, j], model.scores(histories[b : b + 1, : end + 1])[0])


def test_only_the_most_recent_items_are_read() -> None:
    model, histories = mean_model(), draw(20)
    torch.testing.assert_close(model.scores(histories), model.scores(histories[:, -7:]))


def test_the_loss_asks_for_the_item_that_follows_each_prefix() -> None:
    chains = (torch.arange(30)[:, None] + torch.arange(6)) % N_ITEMS + 1
    chains[::2, 3:] = 0
    model = adapt(Ring(), N_ITEMS, 6)
    assert model.loss(chains).item() == pytest.approx(0, abs=1e-6)
    assert model.loss(chains.masked_fill(chains > 0, 3)).item() == pytest.approx(100)


def test_the_loss_of_no_opinion_is_the_logarithm_of_the_catalogue() -> None:
    model = mean_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert model.loss(draw(5, 4, 2)).item() == pytest.approx(math.log(N_ITEMS))


def test_gradients_reach_every_parameter() -> None:
    model = mean_model()
    model.loss(draw(7, 7, 7)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.zero_grad()
    loss, scores = model.loss_and_scores(draw(7, 7), torch.tensor([[1], [5]]))
    assert loss.ndim == 0
    scores.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_adapted_module_learns(tiny: Sequences) -> None:
    torch.manual_seed(0)
    model = adapt(Mean(tiny.n_items), tiny.n_items, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    windows = torch.from_numpy(tiny.test.histories(np.arange(tiny.n_users), 10))
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = model.loss(windows)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_what_is_a_recommender(tiny: Sequences) -> None:
    assert isinstance(Popularity(tiny), Recommender)
    assert not isinstance(Mean(), Recommender)
    assert not isinstance(nn.Linear(2, 2), Recommender)
