"""Lists in the wrong order: the right items, nothing else changed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gro.defenses.order import Order, Reordered
from gro.ranking import top_k

N_ITEMS = 12


class Fixed:
    n_items, max_length = N_ITEMS, 5

    def scores(self, histories: Tensor) -> Tensor:
        return torch.randn(len(histories), N_ITEMS, generator=torch.Generator().manual_seed(int(histories.sum())))


@given(st.integers(0, 50), st.integers(1, N_ITEMS), st.sampled_from(["random", "reverse"]))
def test_the_same_items_in_another_order(item: int, k: int, order: Order) -> None:
    histories = torch.full((3, 2), item)
    before, after = (
        top_k(model.scores(histories), N_ITEMS) for model in (Fixed(), Reordered(Fixed(), k, order, seed=0))
    )
    assert torch.equal(before[:, :k].sort().values, after[:, :k].sort().values)
    assert torch.equal(before[:, k:], after[:, k:])
    if order == "reverse":
        assert torch.equal(before[:, :k].flip(1), after[:, :k])


def test_shuffled_anew_at_every_call_and_every_place_alike() -> None:
    model, histories = Reordered(Fixed(), 3, "random", seed=0), torch.ones(1, 1, dtype=torch.int64)
    best = int(top_k(Fixed().scores(histories), 1))
    places = [top_k(model.scores(histories), 3)[0].tolist().index(best) for _ in range(600)]
    counts = torch.tensor(places).bincount(minlength=3)
    assert (counts - 200).abs().max() < 50
