"""Adaptive tricks: fused lists and the decoy filter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gro_surrogates.answers import Answers, Caller
from gro_surrogates.queries import ask
from gro_surrogates.strategies import Autoregressive, Random
from gro_surrogates.tricks import Fused, borda, find_decoys, without_decoys

N_ITEMS = 20


class Noted:
    """A target that notes what it is asked; its list begins with the sum of the history."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, histories: Tensor) -> Tensor:
        self.asked += [[item for item in row if item] for row in histories.tolist()]
        return (histories.sum(1, keepdim=True) + torch.arange(4)) % N_ITEMS + 1


def test_borda_counts_places() -> None:
    lists = torch.tensor([[[1, 2, 3]], [[2, 4, 0]], [[2, 1, 5]]], dtype=torch.int16)
    assert borda(lists, N_ITEMS).tolist() == [[2, 1, 4]]
    assert borda(lists[1:2], N_ITEMS).tolist() == [[2, 4, 0]]


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 8))
def test_lists_that_agree_fuse_into_themselves(seed: int, copies: int, k: int) -> None:
    torch.manual_seed(seed)
    lists = torch.rand(3, N_ITEMS).argsort(dim=1)[:, :k] + 1
    assert torch.equal(borda(lists.expand(copies, -1, -1), N_ITEMS), lists)
    voices = torch.rand(copies, 3, N_ITEMS).argsort(dim=2)[..., :k] + 1
    assert torch.equal(borda(voices, N_ITEMS), borda(voices.flip(0), N_ITEMS))


@settings(max_examples=40)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(1, 6))
def test_neighbours_lack_one_item_and_never_the_last(repeats: int, neighbours: int, length: int) -> None:
    target = Noted()
    histories = torch.arange(1, length + 1).repeat(2, 1)
    fused = Fused(Caller(target, N_ITEMS), repeats, neighbours, torch.Generator().manual_seed(0))
    fused(histories)
    whole = list(range(1, length + 1))
    assert len(target.asked) == 2 * fused.price
    assert target.asked[: 2 * repeats] == [whole] * (2 * repeats)
    for sent in target.asked[2 * repeats :]:
        assert sent == whole if length == 1 else (len(sent) == length - 1 and set(sent) < set(whole))
        assert sent[-1] == length


@settings(max_examples=40)
@given(st.integers(1, 3), st.integers(0, 3), st.integers(10, 60))
def test_every_call_is_paid_for(repeats: int, neighbours: int, calls: int) -> None:
    target, price = Noted(), repeats + neighbours
    generator = torch.Generator().manual_seed(0)
    answers = ask(target, Random(), N_ITEMS, calls, 4, generator=generator, repeats=repeats, neighbours=neighbours)
    assert len(target.asked) == answers.calls == calls // price * price


def test_noise_averages_out() -> None:
    noise = torch.Generator().manual_seed(0)

    def noisy(histories: Tensor) -> Tensor:
        clean = torch.arange(N_ITEMS, 0, -1.0) - (histories[:, -1:] > N_ITEMS // 2) * torch.arange(N_ITEMS)
        return (clean + 6 * torch.randn(clean.shape, generator=noise)).topk(6, dim=1).indices + 1

    def right(repeats: int) -> float:
        generator = torch.Generator().manual_seed(0)
        answers = ask(noisy, Autoregressive(), N_ITEMS, 300 * repeats, 5, generator=generator, repeats=repeats)
        return float((answers.lists[answers.answered] <= 6).float().mean())

    assert right(8) > right(1) + 0.1


@pytest.mark.parametrize("known", [False, True])
def test_decoys_are_left_out(known: bool) -> None:
    torch.manual_seed(0)
    lists = torch.rand(200, 3, N_ITEMS - 2).argsort(dim=2)[..., :5] + 3
    lists[..., 1] = 1
    lists[::2, :, 3] = 2
    answers = Answers(torch.ones(200, 3, dtype=torch.int64), lists.to(torch.int16), torch.zeros(200, dtype=torch.int64))
    held = torch.cat([torch.full((600,), 2), torch.arange(3, N_ITEMS + 1).repeat(160)])[None] if known else None
    parts = [answers.rows(rows) for rows in torch.arange(200).split(70)]
    decoys = find_decoys(parts, N_ITEMS, 5.0, held)
    assert decoys.nonzero()[:, 0].tolist() == ([1] if known else [1, 2])
    kept = without_decoys(answers, decoys).lists
    assert not (kept == 1).any()
    assert bool((kept == 2).any()) == known
    others = [[i for i in row if i > 2] for row in lists.flatten(0, 1).tolist()]
    assert [[i for i in row if i > 2] for row in kept.flatten(0, 1).tolist()] == others
    assert kept.shape == lists.shape
