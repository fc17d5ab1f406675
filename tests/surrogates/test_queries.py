from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gro.config import ModelSettings
from gro.models import build
from gro.serving import RankingService
from gro_surrogates.queries import PICKERS, Answers, Picker, ask, autoregressive, random

N_ITEMS, K = 30, 4


class Encoder:
    """A target whose list tells the history that it answers: its hash, its last item, its length."""

    def __init__(self) -> None:
        self.calls = 0
        self.batches: list[Tensor] = []

    def __call__(self, histories: Tensor) -> Tensor:
        self.calls += len(histories)
        self.batches.append(histories.clone())
        assert 1 <= histories.min() <= histories.max() <= N_ITEMS
        return answer(histories)


def answer(histories: Tensor) -> Tensor:
    weights = torch.arange(1, histories.shape[1] + 1)
    first = (histories * weights).sum(1) % N_ITEMS
    return (first[:, None] + torch.arange(K) * 7) % N_ITEMS + 1


def run(
    pick: Picker, calls: int, length: int, batch_size: int = 512, seed: int = 0, target: Encoder | None = None
) -> Answers:
    generator = torch.Generator().manual_seed(seed)
    return ask(target or Encoder(), pick, N_ITEMS, calls, length, generator=generator, batch_size=batch_size)


PICKS = pytest.mark.parametrize("pick", PICKERS.values(), ids=PICKERS.keys())
BUDGETS = {"calls": st.integers(1, 80), "length": st.integers(1, 20), "batch_size": st.integers(1, 9)}


@PICKS
@settings(max_examples=60)
@given(**BUDGETS)
def test_exactly_the_budget_is_spent(pick: Picker, calls: int, length: int, batch_size: int) -> None:
    target = Encoder()
    answers = run(pick, calls, length, batch_size, target=target)
    assert target.calls == answers.calls == calls
    assert max(map(len, target.batches)) <= batch_size
    sizes = (answers.histories > 0).sum(1).tolist()
    assert sizes == [length] * (calls // length) + [calls % length] * (calls % length > 0)
    assert answers.n_sequences == len(sizes)
    assert answers.lists.shape == (*answers.histories.shape, K)


@PICKS
@settings(max_examples=30)
@given(**BUDGETS)
def test_each_list_answers_its_own_prefix(pick: Picker, calls: int, length: int, batch_size: int) -> None:
    answers = run(pick, calls, length, batch_size)
    assert answers.lists.dtype == torch.int32
    for history, lists in zip(answers.histories, answers.lists, strict=True):
        n = int((history > 0).sum())
        assert 1 <= history[:n].min() <= history[:n].max() <= N_ITEMS
        assert not history[n:].any()
        for t in range(n):
            assert lists[t].tolist() == answer(history[None, : t + 1])[0].tolist()


@settings(max_examples=30)
@given(**BUDGETS)
def test_autoregressive_picks_come_from_the_list_just_received(calls: int, length: int, batch_size: int) -> None:
    answers = run(autoregressive, calls, length, batch_size)
    following = answers.histories[:, 1:]
    listed = (answers.lists[:, :-1] == following[..., None]).any(-1)
    assert listed[following > 0].all()


def test_autoregressive_draws_every_place_alike() -> None:
    lists = torch.arange(1, K + 1).repeat(4000, 1)
    drawn = autoregressive(lists, N_ITEMS, torch.Generator().manual_seed(0))
    assert (drawn.bincount(minlength=K + 1)[1:] - 1000).abs().max() < 150


def test_random_draws_every_item_alike() -> None:
    drawn = random(torch.ones(30_000, K, dtype=torch.int64), N_ITEMS, torch.Generator().manual_seed(0))
    counts = drawn.bincount(minlength=N_ITEMS + 1)
    assert len(counts) == N_ITEMS + 1
    assert counts[0] == 0
    assert (counts[1:] - 1000).abs().max() < 160


@PICKS
def test_histories_start_anywhere_in_the_catalogue(pick: Picker) -> None:
    assert set(run(pick, 600, 2).histories[:, 0].tolist()) == set(range(1, N_ITEMS + 1))


@PICKS
def test_a_seed_is_a_theft(pick: Picker) -> None:
    torch.manual_seed(1)
    first = run(pick, 50, 7, 3, seed=4)
    torch.manual_seed(2)
    again, other = run(pick, 50, 7, 3, seed=4), run(pick, 50, 7, 3, seed=5)
    assert torch.equal(first.histories, again.histories)
    assert torch.equal(first.lists, again.lists)
    assert not torch.equal(first.histories, other.histories)


def test_histories_of_a_batch_grow_together() -> None:
    target = Encoder()
    run(autoregressive, 3 * 5 + 2, 5, 2, target=target)
    assert [tuple(batch.shape) for batch in target.batches] == [
        *((2, t) for t in range(1, 6)),
        *((1, t) for t in range(1, 6)),
        (1, 1),
        (1, 2),
    ]
    for earlier, later in zip(target.batches[:4], target.batches[1:5], strict=True):
        assert torch.equal(later[:, :-1], earlier)


def test_progress_ends_at_the_whole_budget() -> None:
    fractions: list[float] = []
    generator = torch.Generator().manual_seed(0)
    ask(Encoder(), random, N_ITEMS, 23, 5, generator=generator, batch_size=2, report=fractions.append)
    assert fractions == pytest.approx([10 / 23, 20 / 23, 1.0])


def test_a_service_counts_the_same_calls() -> None:
    model = build(ModelSettings(hidden_size=8, max_length=6), N_ITEMS).eval()
    service = RankingService(model, K)
    answers = ask(service, autoregressive, N_ITEMS, 40, 6, generator=torch.Generator().manual_seed(0), batch_size=4)
    assert service.calls == answers.calls == 40
    at_once = model.prefix_scores(answers.histories[:6], torch.arange(6).expand(6, -1)).topk(K).indices + 1
    assert torch.equal(answers.lists[:6].long(), at_once)


def test_rows_keep_histories_and_lists_together() -> None:
    answers = run(random, 30, 5)
    some = answers.rows(torch.tensor([4, 0]))
    assert torch.equal(some.histories, answers.histories[[4, 0]])
    assert torch.equal(some.lists, answers.lists[[4, 0]])
    assert some.calls == 10
