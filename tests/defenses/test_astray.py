"""Scores that lead astray unseen."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gro.config import ModelSettings
from gro.defenses.astray import ALIKE, RIDGE, TOLD, astray, elsewhere, others, renamed, sparing, unseen
from gro.models import StateRecommender, build

N_ITEMS, SHORT = 3 * ALIKE + 5, 2


def recommender(name: str = "SASRec", longest: int = 8) -> StateRecommender:
    small = {"model": name, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "max_length": longest}
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


@given(st.integers(2, 80), st.integers(0, 99), st.integers(1, 9))
def test_what_was_asked_passes_for_itself_and_for_nothing_else(n_items: int, seed: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    instead = others(torch.rand(n_items, generator=generator), b"owner")
    asked = torch.randint(0, n_items + 1, (5, width), generator=generator)
    for row, history in zip(sparing(instead, asked), asked.tolist(), strict=True):
        there = {item - 1 for item in history if item}
        assert sorted(row.tolist()) == list(range(n_items))
        for item in range(n_items):
            wanted = item
            while item not in there and (wanted := int(instead[wanted])) in there:
                pass
            assert row[item] == wanted


def by_qr(told: torch.Tensor, now: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """What can be put together from what was told ``[R, n_items]`` as it is, the rest of other items."""
    before, after = told - told[:, moved], now - now[moved]
    ridge = math.sqrt(RIDGE * before.square().sum(dim=1).mean()) * torch.eye(len(before), dtype=before.dtype)
    system = torch.cat([before.T, ridge])
    share = torch.linalg.lstsq(system, torch.cat([after, torch.zeros(len(before), dtype=before.dtype)])).solution
    rest = now - share @ told
    found: torch.Tensor = share @ told + rest[moved]
    return found


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "NARM", "BERT4Rec"])
@torch.no_grad()
def test_what_is_new_is_told_of_other_items_and_all_where_nothing_was_told(name: str) -> None:
    model, asked = recommender(name), histories(30)
    instead = others(torch.rand(N_ITEMS, dtype=torch.float64), b"owner")
    length = (asked > 0).sum(dim=1)
    since = (torch.rand(30) * length).long()
    found = astray(model, asked, since, SHORT, instead)
    assert 5 < int((since > SHORT).sum()) < 25
    for row, history, begin, end in zip(found, asked, since.tolist(), length.tolist(), strict=True):
        known = history[None, :end]
        told = torch.cat([model.scores(known[:, : max(1, begin - back)]) for back in range(TOLD)])
        elsewhere = model.scores(torch.tensor([[int(instead[item - 1]) + 1 for item in known[0]]]))[0][instead]
        left = 1 - (end - 1 - begin) / TOLD if begin > SHORT else 0.0
        expected = by_qr(told, model.scores(known)[0], sparing(instead, known)[0])
        torch.testing.assert_close(row, left * expected + (1 - left) * elsewhere)


@torch.no_grad()
def test_nothing_is_left_of_the_truth_after_some_items() -> None:
    model, asked, instead = (
        recommender(longest=16),
        torch.randint(1, N_ITEMS + 1, (9, 16)),
        others(torch.rand(N_ITEMS), b"owner"),
    )
    far, near = (astray(model, asked, torch.full((9,), since), SHORT, instead) for since in (7, 8))
    torch.testing.assert_close(far, elsewhere(model, asked, instead))
    assert not torch.allclose(near, elsewhere(model, asked, instead))


@torch.no_grad()
def test_another_catalogue_agrees_with_itself_as_the_true_one_does() -> None:
    model, asked = recommender(), histories(50)
    instead = others(torch.rand(N_ITEMS), b"owner")
    undone = instead.argsort()
    assert torch.equal(renamed(undone, renamed(instead, asked)), asked)
    assert torch.equal(renamed(instead, asked) > 0, asked > 0)
    assert torch.equal(elsewhere(model, renamed(undone, asked), instead)[:, undone], model.scores(asked))
    away = (elsewhere(model, asked, instead) - model.scores(asked)).norm(dim=1)
    assert away.mean() > 0.5 * model.scores(asked).norm(dim=1).mean()


@torch.no_grad()
def test_what_was_told_before_is_as_far_away_as_it_would_be_from_the_truth() -> None:
    model, asked = recommender(), torch.stack([torch.randperm(N_ITEMS)[:8] + 1 for _ in range(200)])
    instead = others(torch.rand(N_ITEMS), b"owner")
    false = unseen(model, asked, torch.full((200,), 5), instead)
    true, told = model.scores(asked), [model.scores(asked[:, :end]) for end in range(1, 6)]
    assert (false - true).norm(dim=1).mean() > 0.3 * true.norm(dim=1).mean()
    for each in told:
        far = [float((scores - each).norm(dim=1).mean()) for scores in (false, true)]
        assert far[0] == pytest.approx(far[1], rel=0.15)
    of_what_was_asked = [scores.gather(1, asked - 1).mean() for scores in (false, true)]
    torch.testing.assert_close(*of_what_was_asked, rtol=0.05, atol=0.05)


@torch.no_grad()
def test_who_has_asked_for_everything_can_only_be_told_the_truth() -> None:
    model, asked = recommender(), torch.randint(1, N_ITEMS + 1, (20, 8))
    found = unseen(model, asked, torch.full((20,), 3), torch.arange(N_ITEMS))
    torch.testing.assert_close(found, model.scores(asked))
