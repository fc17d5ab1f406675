"""Lists that lead astray by steps as large as the true ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gro.config import ModelSettings
from gro.defenses.astray import ALIKE, astray, others
from gro.models import StateRecommender, build

N_ITEMS = 3 * ALIKE + 5


def recommender(name: str = "SASRec") -> StateRecommender:
    small = {"model": name, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "max_length": 8}
    return build(ModelSettings.make(small), N_ITEMS, seed=0).double().eval()


def histories(count: int, width: int = 8) -> torch.Tensor:
    drawn = torch.randint(1, N_ITEMS + 1, (count, width))
    return drawn * (torch.arange(width) < torch.randint(2, width + 1, (count, 1)))


@given(st.integers(1, 200), st.integers(0, 99), st.binary(min_size=1, max_size=64))
def test_every_item_passes_for_one_that_is_as_popular(n_items: int, seed: int, secret: bytes) -> None:
    popularity = torch.rand(n_items, generator=torch.Generator().manual_seed(seed))
    found = others(popularity, secret)
    assert sorted(found.tolist()) == list(range(n_items))
    ranked = popularity.argsort(descending=True).tolist()
    for start in range(0, n_items, ALIKE):
        alike = set(ranked[start : start + ALIKE])
        assert {int(found[item]) for item in alike} == alike
    assert torch.equal(others(popularity, secret), found)


def test_only_the_secret_tells_which_and_no_global_state_changes() -> None:
    popularity, state = torch.rand(N_ITEMS), torch.get_rng_state()
    one, other = others(popularity, b"owner"), others(popularity, b"another")
    assert (one == other).float().mean() < 0.2
    assert (one == torch.arange(N_ITEMS)).float().mean() < 0.2
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "NARM", "BERT4Rec"])
@torch.no_grad()
def test_what_has_changed_is_told_of_other_items(name: str) -> None:
    model, asked = recommender(name), histories(30)
    instead = others(torch.rand(N_ITEMS, dtype=torch.float64), b"owner")
    length = (asked > 0).sum(dim=1)
    since = 1 + (torch.rand(30) * (length - 1)).long()
    found = astray(model, asked, since, length, instead)
    for row, history, begin, end in zip(found, asked, since.tolist(), length.tolist(), strict=True):
        before, now = (model.scores(history[None, :upto])[0] for upto in (begin, end))
        torch.testing.assert_close(row, before + (now - before)[instead])


@torch.no_grad()
def test_the_steps_are_as_large_as_the_true_ones() -> None:
    model, asked = recommender(), torch.randint(1, N_ITEMS + 1, (30, 8))
    instead, since = others(torch.rand(N_ITEMS), b"owner"), torch.full((30,), 4)
    for end in (5, 6, 7, 8):
        steps = [model.scores(asked[:, :end]) - model.scores(asked[:, : end - 1])]
        size = torch.full((30,), end)
        before = astray(model, asked, since, size - 1, instead) if end > 5 else model.scores(asked[:, :4])
        steps.append(astray(model, asked, since, size, instead) - before)
        true, false = (step.sort(dim=1).values for step in steps)
        torch.testing.assert_close(true, false)
