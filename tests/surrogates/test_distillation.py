from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gro.config import ModelSettings
from gro.losses import listwise_loss, ranking_loss
from gro.models import StateRecommender, build
from gro.serving import RankingService
from gro_surrogates.answers import Answers
from gro_surrogates.distillation import (
    Beside,
    draw_ends,
    held_out_agreement,
    learn_epoch,
    learn_held_epoch,
    next_item_gain,
)
from gro_surrogates.losses import LOSSES, listwise, ranking
from gro_surrogates.queries import ask
from gro_surrogates.strategies import Autoregressive, Random

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
N_ITEMS, K, LENGTH = 40, 10, 6


def make(name: str = "SASRec", seed: int = 0, noise: float = 0.0) -> StateRecommender:
    settings = ModelSettings.model_validate({"model": name, "hidden_size": 8, "max_length": LENGTH, "dropout": 0.0})
    model = build(settings, N_ITEMS, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return model.eval()


def rob(model: StateRecommender, calls: int, k: int = K) -> Answers:
    return ask(RankingService(model, k), Autoregressive(), N_ITEMS, calls, LENGTH, generator=torch.Generator())


@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 10))
def test_drawn_prefixes_differ_and_are_real(seed: int, width: int, count: int) -> None:
    torch.manual_seed(seed)
    length = torch.randint(1, width + 1, (5,))
    ends = draw_ends(torch.arange(width) < length[:, None], count)
    assert ends.shape == (5, min(count, width))
    for row, n in zip(ends.tolist(), length.tolist(), strict=True):
        assert all(0 <= end < n for end in row)
        assert len(set(row)) == min(n, count)


def test_every_prefix_is_drawn_alike() -> None:
    torch.manual_seed(0)
    counts = draw_ends(torch.ones(6000, 6, dtype=torch.bool), 2).flatten().bincount()
    assert (counts - 2000).abs().max() < 200


def test_losses_are_those_of_the_recorded_items() -> None:
    scores = torch.randn(3, N_ITEMS)
    lists = torch.stack([torch.randperm(N_ITEMS)[:5] + 1 for _ in range(3)])
    listed = torch.stack([scores[b, [item - 1 for item in row]] for b, row in enumerate(lists.tolist())])
    columns = torch.tensor([[item - 1 for item in row] for row in lists.tolist()])
    torch.testing.assert_close(listwise(scores, lists), listwise_loss(scores, columns))
    flat = torch.zeros(3, N_ITEMS).scatter(1, lists - 1, listed)
    torch.testing.assert_close(ranking(flat, lists), ranking_loss(listed, torch.zeros(3, 5)))


class Recorder(StateRecommender):
    """Notes what it is asked; its one weight scores every item alike."""

    def __init__(self, one_pass: bool) -> None:
        super().__init__(N_ITEMS, LENGTH, 1)
        self.one_pass = one_pass
        self.asked: list[tuple[Tensor, Tensor]] = []

    def prefix_states(self, histories: Tensor, ends: Tensor) -> Tensor:
        self.asked.append((histories, ends))
        return torch.ones(*ends.shape, 1)

    def loss(self, windows: Tensor, context: Tensor | None = None) -> Tensor:
        return self.head.weight.sum()


def sums(histories: Tensor) -> Tensor:
    """A target whose first item is the history's sum."""
    return (histories.sum(1, keepdim=True) + torch.arange(3)) % N_ITEMS + 1


@pytest.mark.parametrize(("one_pass", "positions"), [(True, 4), (True, 50), (False, 4)])
def test_an_epoch_learns_every_history_once_from_its_own_lists(one_pass: bool, positions: int) -> None:
    answers = ask(sums, Random(), N_ITEMS, 45, LENGTH, generator=torch.Generator().manual_seed(0))
    surrogate, learnt = Recorder(one_pass), []

    def loss(scores: Tensor, lists: Tensor) -> Tensor:
        learnt.append(lists)
        return scores.sum()

    optimizer = torch.optim.SGD(surrogate.parameters(), lr=0.0)
    settings = {"batch_size": 3, "positions": positions, "clip": 1.0}
    fractions = list(learn_epoch(surrogate, optimizer, answers, loss, **settings))  # type: ignore[arg-type]
    assert fractions == pytest.approx([3 / 8, 6 / 8, 1.0])
    seen = torch.cat([histories for histories, _ in surrogate.asked])
    assert sorted(seen.tolist()) == sorted(answers.histories.tolist())
    for (histories, ends), lists in zip(surrogate.asked, learnt, strict=True):
        assert ends.shape[1] == (min(positions, LENGTH) if one_pass else 1)
        expected = [sums(h[None, : e + 1])[0].tolist() for h, row in zip(histories, ends, strict=True) for e in row]
        assert lists.tolist() == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_surrogate_learns_its_target(name: str, loss: object) -> None:
    answers = rob(make(seed=1, noise=0.3), 400)
    surrogate = make(name)
    before = held_out_agreement(surrogate, answers)
    optimizer = torch.optim.Adam(surrogate.parameters(), lr=1e-2)
    torch.manual_seed(0)
    for _ in range(12):
        for _ in learn_epoch(surrogate, optimizer, answers, loss, batch_size=8, positions=6, clip=5.0):  # type: ignore[arg-type]
            pass
    assert held_out_agreement(surrogate, answers) > before + 0.2


def test_steps_are_clipped() -> None:
    surrogate, answers = make(), rob(make(seed=1), 60)
    before = torch.cat([p.detach().flatten().clone() for p in surrogate.parameters()])
    optimizer = torch.optim.SGD(surrogate.parameters(), lr=1.0)
    list(
        learn_epoch(
            surrogate, optimizer, answers, lambda s, _: 1000 * s.square().sum(), batch_size=99, positions=6, clip=0.01
        )
    )
    after = torch.cat([p.detach().flatten() for p in surrogate.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("calls", [7, 60, 64])
def test_a_perfect_copy_agrees_fully(name: str, calls: int) -> None:
    model = make(name, noise=0.3).double()
    answers = rob(model, calls)
    assert held_out_agreement(model, answers) == 1.0
    assert held_out_agreement(make(name, seed=3, noise=0.3).double(), answers) < 0.9


@pytest.mark.parametrize("k", [1, 4, 10])
def test_agreement_is_the_mean_over_all_recorded_lists(k: int) -> None:
    answers, surrogate = rob(make(seed=1, noise=0.3), 64), make(seed=2, noise=0.3)
    shares = []
    for history, lists in zip(answers.histories, answers.lists, strict=True):
        for t in range(int((history > 0).sum())):
            ours = RankingService(surrogate, k)(history[None, : t + 1])[0]
            shares.append(len(set(ours.tolist()) & set(lists[t, :k].tolist())) / k)
    assert held_out_agreement(surrogate, answers, k) == pytest.approx(sum(shares) / len(shares))


def test_agreement_of_short_lists_is_at_their_length() -> None:
    answers, surrogate = rob(make(seed=1, noise=0.3), 60, k=3), make(seed=2, noise=0.3)
    assert held_out_agreement(surrogate, answers, 10) == held_out_agreement(surrogate, answers, 3)


def test_many_histories_are_judged_by_their_last_lists() -> None:
    target = make(seed=1, noise=0.3)
    generator = torch.Generator().manual_seed(0)
    answers = ask(RankingService(target, 3), Random(), N_ITEMS, 2500 * 3, 3, generator=generator)
    wrong = answers.lists.clone()
    wrong[:, :2] = 1 + (wrong[:, :2] + 10) % N_ITEMS
    assert held_out_agreement(target, Answers(answers.histories, wrong, answers.first), 3) == pytest.approx(1, abs=1e-3)


def test_only_answered_prefixes_are_drawn() -> None:
    answered = torch.tensor([[False, True, False, True], [True, False, False, False]])
    for seed in range(20):
        torch.manual_seed(seed)
        ends = draw_ends(answered, 3).tolist()
        assert set(ends[0]) == {1, 3}
        assert set(ends[1]) == {0}


def test_agreement_reads_what_was_answered_alone() -> None:
    target = make(seed=1, noise=0.3)
    answers = rob(target, 60)
    silenced = answers.lists.clone()
    silenced[:, -2:] = 0
    silenced[0] = 0
    assert held_out_agreement(target, Answers(answers.histories, silenced, answers.first)) == 1.0
    shortened = answers.lists.clone()
    shortened[::2, :, 3:] = 0
    assert held_out_agreement(target, Answers(answers.histories, shortened, answers.first)) == 1.0


def test_real_histories_teach_their_order() -> None:
    held = (torch.arange(24)[:, None] + torch.arange(LENGTH)) % N_ITEMS + 1
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = next_item_gain(model, held)
    torch.manual_seed(0)
    for _ in range(30):
        assert sum(learn_held_epoch(model, optimizer, held, batch_size=5, clip=5.0)) == pytest.approx(1)
    assert next_item_gain(model.eval(), held) > before + 0.3


def test_real_histories_repair_what_the_lists_teach() -> None:
    held = (torch.arange(24)[:, None] + torch.arange(LENGTH)) % N_ITEMS + 1
    answers = rob(make(seed=1, noise=0.3), 400)
    gains = []
    for repair in (0.0, 1.0):
        surrogate = make()
        optimizer = torch.optim.Adam(surrogate.parameters(), lr=1e-2)
        torch.manual_seed(0)
        for _ in range(12):
            list(
                learn_epoch(
                    surrogate,
                    optimizer,
                    answers,
                    listwise,
                    batch_size=8,
                    positions=6,
                    clip=5.0,
                    beside=Beside(surrogate, held, batch_size=8, repair=repair, popularity=0.0),
                )
            )
        gains.append(next_item_gain(surrogate.eval(), held))
    assert gains[1] > gains[0] + 0.2


@given(st.integers(0, 1000), st.floats(0.01, 2))
def test_what_is_popular_in_real_histories_pulls_the_scores_to_its_shares(seed: int, weight: float) -> None:
    torch.manual_seed(seed)
    held = torch.randint(0, N_ITEMS + 1, (7, LENGTH))
    held[0, 0] = 1
    scores = torch.randn(5, N_ITEMS, dtype=torch.float64).requires_grad_()
    shares = torch.stack([(held == item).sum() for item in range(1, N_ITEMS + 1)]) / (held > 0).sum()
    loss = Beside(Recorder(True), held, batch_size=3, repair=0.0, popularity=weight)(scores.float())
    torch.autograd.backward(loss)
    expected = weight * (scores.detach().softmax(dim=1) - shares) / len(scores)
    torch.testing.assert_close(scores.grad, expected, rtol=1e-4, atol=1e-6)


def test_beside_the_lists_are_weighted_real_histories_and_popularity() -> None:
    held, scores, surrogate = torch.tensor([[1, 2, 3], [2, 3, 0]]), torch.randn(4, N_ITEMS), Recorder(True)

    def beside(repair: float, popularity: float) -> Tensor:
        return Beside(surrogate, held, batch_size=3, repair=repair, popularity=popularity)(scores)

    assert beside(0.0, 0.0).item() == 0
    assert beside(0.5, 0.0).item() == pytest.approx(0.5 * surrogate.head.weight.sum().item())
    torch.testing.assert_close(beside(0.5, 2.0), beside(0.5, 0.0) + 2 * beside(0.0, 1.0))


def test_an_epoch_adds_what_is_beside_the_lists_to_every_step() -> None:
    answers, surrogate, seen = rob(make(seed=1, noise=0.3), 60), make(), []

    def beside(scores: Tensor) -> Tensor:
        seen.append(scores.shape)
        return scores[:, 0].mean()

    optimizer = torch.optim.SGD(surrogate.parameters(), lr=0.1)
    before = surrogate.scores(answers.histories)[:, 0].mean().item()
    for _ in range(20):
        list(
            learn_epoch(
                surrogate,
                optimizer,
                answers,
                lambda s, _: 0 * s.sum(),
                batch_size=4,
                positions=6,
                clip=5,
                beside=beside,
            )
        )
    assert seen == [torch.Size([n * 6, N_ITEMS]) for n in (4, 4, 2)] * 20
    assert surrogate.scores(answers.histories)[:, 0].mean().item() < before - 1


def test_gain_is_that_of_the_last_item() -> None:
    class Fixed(Recorder):
        def prefix_scores(self, histories: Tensor, ends: Tensor) -> Tensor:
            self.asked.append((histories, ends))
            return torch.arange(N_ITEMS, 0, -1.0).expand(*ends.shape, N_ITEMS)

    model = Fixed(one_pass=True)
    held = torch.tensor([[5, 6, 1, 0, 0], [7, 3, 0, 0, 0]])
    assert next_item_gain(model, held) == pytest.approx((1 + 0.5) / 2)
    assert model.asked[0][0].tolist() == [[5, 6, 0, 0, 0], [7, 0, 0, 0, 0]]
