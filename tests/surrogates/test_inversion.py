"""A thief who knows the defence learns to undo it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gro.models import Recommender
from gro.ranking import top_k
from gro_surrogates import inversion
from gro_surrogates.answers import Answers
from gro_surrogates.inversion import ListToList, cleaned, learn_inversion
from gro_surrogates.thief import Thief, ThiefSettings

N_ITEMS, K = 20, 6
DECOY = 17


class Taste:
    """A target that likes what is near the last item; a defence bends its scores."""

    n_items, max_length = N_ITEMS, 9

    def __init__(self, bent: Callable[[Tensor], Tensor] = lambda scores: scores) -> None:
        self.bent = bent

    def scores(self, histories: Tensor) -> Tensor:
        last = histories.gather(1, (histories != 0).sum(dim=1, keepdim=True) - 1)
        away = (torch.arange(1, N_ITEMS + 1) - last) % N_ITEMS
        return self.bent(-away.float())


def with_decoy(scores: Tensor) -> Tensor:
    """Lists with a decoy on top."""
    return scores.masked_fill(torch.arange(1, N_ITEMS + 1) == DECOY, 99.0)


def reversed_top(scores: Tensor) -> Tensor:
    """Lists in reversed order."""
    listed = scores.topk(K, dim=1)
    return scores.scatter(1, listed.indices, listed.values.flip(1))


def lists(target: Recommender, histories: Tensor) -> Tensor:
    return top_k(target.scores(histories), K)


@given(st.integers(0, 1000), st.integers(1, N_ITEMS))
def test_an_untrained_inversion_returns_the_list(seed: int, k: int) -> None:
    torch.manual_seed(seed)
    received = torch.rand(5, N_ITEMS).argsort(dim=1)[:, :k] + 1
    scores = ListToList(N_ITEMS, k)(received)
    assert torch.equal(top_k(scores, k), received)
    unlisted = torch.ones(5, N_ITEMS).scatter(1, received - 1, 0)
    assert not (scores * unlisted).any()


def test_padding_of_a_short_list_is_no_item() -> None:
    short = torch.tensor([[3, 5, 0, 0, 0, 0]])
    scores = ListToList(N_ITEMS, K)(short)
    assert top_k(scores, 2).tolist() == [[3, 5]]
    assert (scores > 0).sum() == 2


@pytest.fixture
def enough_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many steps as the thief takes, on fewer pairs."""
    monkeypatch.setattr(inversion, "PAIRS", 4000)
    monkeypatch.setattr(inversion, "EPOCHS", 40)


@pytest.mark.usefixtures("enough_steps")
@pytest.mark.parametrize("bent", [with_decoy, reversed_top])
def test_a_known_defence_is_undone(bent: Callable[[Tensor], Tensor]) -> None:
    clean, defended = Taste(), Taste(bent)
    seen: list[tuple[int, int]] = []

    def shadows(histories: Tensor, seed: int) -> tuple[Recommender, Recommender]:
        seen.append((len(histories), seed))
        return clean, defended

    learnt = learn_inversion(shadows, torch.randint(1, N_ITEMS + 1, (60, 5)), N_ITEMS, K, seed=3)
    assert seen == [(60, 3)]
    asked = torch.tensor([[last] for last in range(1, N_ITEMS + 1) if not last <= DECOY < last + K])
    wanted, received = lists(clean, asked), lists(defended, asked)
    known = 5 if bent is with_decoy else 6  # the decoy takes the place of the sixth
    assert not (received[:, 0] == wanted[:, 0]).any()
    assert torch.equal(top_k(learnt(received), known), wanted[:, :known])


def test_prefixes_are_real_beginnings_of_every_length() -> None:
    histories = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]])
    asked = inversion._prefixes(histories, torch.Generator().manual_seed(0))
    beginnings = {tuple(row[:n] + [0] * (4 - n)) for row in histories.tolist() for n in range(1, 5) if row[n - 1]}
    assert {tuple(row) for row in asked.tolist()} == beginnings


def answers() -> Answers:
    received = torch.rand(4, 3, N_ITEMS).argsort(dim=2)[..., :K] + 1
    received[0] = 0
    received[1:, 2] = 0
    return Answers(torch.ones(4, 3, dtype=torch.int64), received.to(torch.int16), torch.zeros(4, dtype=torch.int64))


def test_what_was_not_answered_stays_so() -> None:
    given_answers, learnt = answers(), ListToList(N_ITEMS, K)
    torch.nn.init.constant_(learnt.worth, 0.0)
    with torch.no_grad():
        learnt.items.copy_(torch.arange(N_ITEMS, 0, -1.0))
    before = given_answers.lists.clone()
    found = cleaned(given_answers, learnt)
    assert torch.equal(found.answered, given_answers.answered)
    assert (found.lists[found.answered] == torch.arange(1, K + 1)).all()
    assert not found.lists[~found.answered].any()
    assert found.lists.dtype == torch.int16
    assert torch.equal(given_answers.lists, before)
    silent = replace(given_answers, lists=torch.zeros_like(before))
    assert torch.equal(cleaned(silent, learnt).lists, silent.lists)


SETTINGS = ThiefSettings(max_length=6, hidden_size=8, inner_size=8, epochs=1, invert=True)


def service(histories: Tensor) -> Tensor:
    return lists(Taste(), histories)


def weights(settings: ThiefSettings, shadows: inversion.Shadows | None = None) -> Tensor:
    thief = Thief(settings, shadows=shadows, held=torch.tensor([[1, 2, 3], [4, 5, 6]]) if settings.known else None)
    surrogate = thief(service, N_ITEMS, 120, seed=0).surrogate
    return torch.cat([p.detach().flatten() for p in surrogate.parameters()])


def test_without_a_defence_to_rehearse_the_lists_are_learnt_as_they_are() -> None:
    assert torch.equal(weights(SETTINGS), weights(SETTINGS.model_copy(update={"invert": False})))


@pytest.mark.usefixtures("enough_steps")
@pytest.mark.parametrize("known", [0.0, 0.1])
def test_the_shadows_learn_what_the_thief_has(known: float) -> None:
    taught: list[Tensor] = []

    def shadows(histories: Tensor, seed: int) -> tuple[Recommender, Recommender]:
        taught.append(histories)
        return Taste(), Taste(reversed_top)

    settings = SETTINGS.model_copy(update={"known": known})
    bent = weights(settings, shadows)
    assert not torch.equal(bent, weights(settings.model_copy(update={"invert": False})))
    assert len(taught) == 1
    expected = [[1, 2, 3], [4, 5, 6]] if known else Thief(SETTINGS).ask(service, N_ITEMS, 120, 0)[0].histories.tolist()
    assert taught[0].tolist() == expected
    assert torch.equal(bent, weights(settings, shadows))
    assert torch.equal(weights(settings.model_copy(update={"invert": False}), shadows), weights(settings))


def test_a_short_list_gets_no_longer() -> None:
    lists = torch.tensor([[[9, 8, 0, 0, 0], [5, 4, 3, 2, 1]]])
    answers = Answers(torch.ones(1, 2, dtype=torch.int64), lists, torch.zeros(1, dtype=torch.int64))
    assert inversion.cleaned(answers, inversion.ListToList(12, 5)).lists.tolist() == lists.tolist()
