"""Clones whose rankings are fused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gro.config import ModelSettings
from gro.models import StateRecommender, build
from gro_surrogates.fusion import RankFusion

N_ITEMS = 12
HISTORIES = torch.arange(1, 5)[:, None]


class Table(StateRecommender):
    """Scores by a table; the history's first item chooses the row."""

    one_pass = True

    def __init__(self, table: Tensor, max_length: int = 3) -> None:
        super().__init__(table.shape[1], max_length, 1)
        self.table = table

    def scores(self, histories: Tensor) -> Tensor:
        return self.table[histories[:, 0] - 1]

    def prefix_states(self, histories: Tensor, ends: Tensor) -> Tensor:
        raise NotImplementedError

    def loss(self, windows: Tensor, context: Tensor | None = None) -> Tensor:
        raise NotImplementedError


def tables(seed: int, clones: int, values: int) -> list[Tensor]:
    """Scores with many ties where there are few values."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(values, (4, N_ITEMS), generator=generator).double() for _ in range(clones)]


def fuse(scores: list[Tensor]) -> Tensor:
    return RankFusion([Table(each) for each in scores]).scores(HISTORIES)


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(2, 50))
def test_every_clone_adds_one_over_sixty_and_its_rank(seed: int, clones: int, values: int) -> None:
    scores = tables(seed, clones, values)
    expected = torch.zeros(4, N_ITEMS, dtype=torch.float64)
    for table in scores:
        for row in range(4):
            ranked = sorted(range(N_ITEMS), key=lambda item, row=row, table=table: (-table[row, item], item))  # type: ignore[misc]
            for rank, item in enumerate(ranked, start=1):
                expected[row, item] += 1 / (60 + rank)
    torch.testing.assert_close(fuse(scores), expected)


@given(st.integers(0, 1000), st.integers(2, 50))
def test_one_clone_ranks_as_itself(seed: int, values: int) -> None:
    (scores,) = tables(seed, 1, values)
    order = [each.sort(dim=1, descending=True, stable=True).indices for each in (fuse([scores]), scores)]
    assert torch.equal(*order)


@pytest.mark.parametrize("change", [lambda s: 1e6 * s - 5, torch.exp, lambda s: s**3], ids=["affine", "exp", "cube"])
@given(seed=st.integers(0, 1000))
def test_only_the_order_of_a_clone_s_scores_counts(change: Callable[[Tensor], Tensor], seed: int) -> None:
    first, second = tables(seed, 2, 20)
    assert torch.equal(fuse([first, second]), fuse([change(first), second]))
    assert torch.equal(fuse([first, second]), fuse([second, first]))


def test_ties_go_to_the_lower_id_in_a_large_catalogue() -> None:
    scores = torch.arange(5000.0)[None] // 1000
    order = RankFusion([Table(scores)]).scores(HISTORIES[:1])[0].argsort(descending=True)
    assert order.tolist() == torch.arange(5000).view(5, 1000).flip(0).flatten().tolist()


def test_what_both_clones_place_well_comes_first() -> None:
    first = torch.tensor([[9.0, 8, 7, 0]])
    second = torch.tensor([[0.0, 8, 7, 9]])
    fused = RankFusion([Table(first), Table(second)]).scores(HISTORIES[:1])
    assert fused.argmax().item() == 1


def test_each_clone_reads_as_much_of_a_history_as_it_can() -> None:
    short, long = (build(ModelSettings(hidden_size=8, max_length=n), N_ITEMS).eval() for n in (2, 6))
    fused = RankFusion([short, long])
    assert (fused.max_length, fused.n_items) == (6, N_ITEMS)
    histories = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]])
    recent = torch.tensor([[4, 5], [6, 7]])
    with torch.no_grad():
        expected = RankFusion([Table(short.scores(recent)), Table(long.scores(histories))]).scores(
            torch.tensor([[1], [2]])
        )
        assert torch.equal(fused.scores(histories), expected)
