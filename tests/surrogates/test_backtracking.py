"""A thief who takes items back, against a service that answers what it dislikes by one of a few lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gro_surrogates.answers import Answers
from gro_surrogates.backtracking import TOP, Backtracking, Canned, Steady
from gro_surrogates.queries import ask
from gro_surrogates.settings import Sign
from gro_surrogates.strategies import Agent, Autoregressive, Coverage, Mimic, Random, Strategy
from gro_surrogates.thief import Thief, ThiefSettings

N_ITEMS, K, BEGINNER, LENGTH = 120, 30, 3, 8


def shuffled(seed: int) -> Tensor:
    return 1 + torch.randperm(N_ITEMS, generator=torch.Generator().manual_seed(seed))


class Service:
    """Beginners, and histories with an item above ``fine`` behind those, get one of two lists, what they have left out.

    All others get a list of their own.
    """

    sign: Sign = "canned"
    some = 60

    def __init__(self, fine: int) -> None:
        self.fine, self.calls = fine, 0
        self.canned = [shuffled(number) for number in (1, 2)]

    def honest(self, history: list[int]) -> bool:
        return len(history) > BEGINNER and max(history[BEGINNER:]) <= self.fine

    def answer(self, history: list[int]) -> Tensor:
        if self.honest(history):
            return shuffled(hash(tuple(history)) % (1 << 31))[:K]
        whole = self.canned[history[0] % 2]
        return whole[~torch.isin(whole, torch.tensor(history))][:K]

    def __call__(self, histories: Tensor) -> Tensor:
        self.calls += len(histories)
        return torch.stack([self.answer(history) for history in histories.tolist()])


class Renaming(Service):
    """Puts the item that was asked last first, if it likes the history, and leaves it out if not."""

    sign = "missing"

    def answer(self, history: list[int]) -> Tensor:
        whole = shuffled(hash(tuple(history)) % (1 << 31))
        first, others = torch.tensor(history[-1:]), whole[whole != history[-1]]
        return torch.cat([first, others])[:K] if self.honest(history) else others[:K]


class Lying(Service):
    """Answers by lists like each other until there is an item that it likes, and by others from then on."""

    sign = "steady"
    some = 6

    def honest(self, history: list[int]) -> bool:
        return any(item <= self.fine for item in history[BEGINNER:])

    def answer(self, history: list[int]) -> Tensor:
        rolled: Tensor = self.canned[self.honest(history)][:K].roll(hash(tuple(history)) % 5)
        return rolled


def rob(service: Service, strategy: Strategy, tries: int, calls: int = 600, seed: int = 0) -> Answers:
    generator = torch.Generator().manual_seed(seed)
    backtracking = Backtracking(tries, service.sign, BEGINNER, N_ITEMS, generator) if tries else None
    return ask(service, strategy, N_ITEMS, calls, LENGTH, generator=generator, backtracking=backtracking)


def positions(answers: Answers) -> list[tuple[list[int], Tensor]]:
    """Every prefix past a beginner's and the list that was kept for it."""
    return [
        (history[: end + 1], lists[end])
        for history, lists in zip(answers.histories.tolist(), answers.lists.long(), strict=True)
        for end in range(BEGINNER, len(history))
        if history[end]
    ]


@pytest.mark.parametrize("kind", [Service, Renaming, Lying])
@pytest.mark.parametrize("strategy", [Random, Autoregressive, Mimic, Agent, Coverage])
def test_all_that_is_kept_is_the_truth_of_what_was_asked(strategy: type[Strategy], kind: type[Service]) -> None:
    service = kind(kind.some)
    answers = rob(service, strategy(), 3)
    kept = [(history, each) for history, each in positions(answers) if each.any()]
    assert len(kept) > 100
    for history, each in kept:
        assert service.honest(history)
        assert torch.equal(each, service.answer(history))
    without = positions(rob(kind(kind.some), strategy(), 0))
    assert sum(service.honest(history) for history, _ in without) < 0.3 * len(without)


@pytest.mark.parametrize("kind", [Service, Renaming, Lying])
def test_what_beginners_are_told_is_kept_whatever_it_is(kind: type[Service]) -> None:
    service = kind(kind.some)
    answers = rob(service, Random(), 2)
    for history, lists in zip(answers.histories.tolist(), answers.lists.long(), strict=True):
        for end in range(BEGINNER):
            assert torch.equal(lists[end], service.answer(history[: end + 1]))


@settings(max_examples=40, deadline=None)
@given(st.integers(9, 900), st.integers(1, 4), st.sampled_from([0, 30, 100, 120]), st.integers(0, 99))
def test_every_call_is_counted_and_no_more_are_made_than_may_be(calls: int, tries: int, fine: int, seed: int) -> None:
    service = Service(fine)
    answers = rob(service, Random(), tries, calls, seed)
    assert answers.calls == service.calls == calls
    assert (answers.taken_back > 0) == (service.calls > int((answers.histories > 0).sum()))


def test_who_begins_with_more_items_than_a_beginner_judges_what_comes_then() -> None:
    class Later(Random):
        together = 16

        def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
            return torch.randint(Lying.some + 1, n_items + 1, (size, BEGINNER + 2), generator=generator)

    service = Lying(Lying.some)
    answers = rob(service, Later(), 3)
    kept = [(history, each) for history, each in positions(answers) if each.any() and len(history) > BEGINNER + 2]
    assert len(kept) > 20
    assert all(service.honest(history) for history, _ in kept)


def test_where_nothing_helps_histories_are_given_up_and_begun_anew() -> None:
    service = Service(0)
    answers = rob(service, Random(), 2)
    assert int((answers.histories > 0).sum(dim=1).max()) == BEGINNER + 1
    assert not any(bool(each.any()) for _, each in positions(answers))


def test_of_a_service_that_has_no_such_lists_all_is_kept() -> None:
    answers = rob(Service(N_ITEMS), Random(), 3)
    assert answers.taken_back == 0
    assert int(answers.answered.sum()) == int((answers.histories > 0).sum()) == answers.calls


def known(canned: Canned, lists: Tensor) -> Tensor:
    return canned.amiss(torch.empty(len(lists), 0), lists, torch.arange(len(lists)))


def test_a_list_is_canned_once_it_was_met_twice_whatever_is_left_out() -> None:
    whole, other = shuffled(1), shuffled(2)
    canned = Canned(N_ITEMS)
    canned.learn(whole[None, :K])
    assert not known(canned, whole[None, :K]).any()
    canned.learn(torch.stack([whole[2 : K + 2], other[:K]]))
    assert known(canned, torch.stack([whole[:K], whole[3 : K + 3], whole[:K].flip(0), other[:K]])).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_a_list_in_another_order_is_another_and_so_is_one_with_little_in_common() -> None:
    whole, canned = shuffled(1), Canned(N_ITEMS)
    canned.learn(whole[None, :K].repeat(2, 1))
    turned = whole[:K].clone()
    turned[[4, 5]] = whole[[5, 4]]
    apart = whole[:K].clone()
    apart[TOP // 2 : TOP] = whole[K : K + TOP // 2]
    behind = whole[:K].clone()
    behind[TOP:] = whole[K : 2 * K - TOP]
    assert known(canned, torch.stack([turned, apart, behind])).tolist() == [False, False, True]


def test_lists_that_did_not_come_are_no_lists() -> None:
    canned = Canned(N_ITEMS)
    canned.learn(torch.zeros(3, K, dtype=torch.int16))
    assert known(canned, torch.zeros(2, K, dtype=torch.int16)).tolist() == [False, False]


def test_shorter_lists_are_known_again() -> None:
    whole, canned = shuffled(1), Canned(N_ITEMS)
    short = torch.nn.functional.pad(whole[None, :5], (0, 3))
    canned.learn(short.repeat(2, 1))
    assert known(canned, short).all()
    assert not known(canned, torch.nn.functional.pad(shuffled(2)[None, :5], (0, 3))).any()


def test_lists_are_steady_while_they_are_like_the_last_of_their_own_history_until_they_turn() -> None:
    one, two, rows = shuffled(1)[:K], shuffled(2)[:K], torch.tensor([1])
    sign, asked = Steady(), torch.ones(1, BEGINNER, dtype=torch.long)

    def steady(answered: Tensor) -> bool:
        return bool(sign.amiss(asked, answered[None].roll(3, dims=1), rows))

    sign.begin(torch.stack([one, one]))
    assert (steady(one), steady(two)) == (True, False)
    sign.learn(torch.stack([one, two]))
    assert (steady(one), steady(two)) == (False, True)
    sign.follow()
    assert not steady(two)
    sign.begin(torch.stack([one, two]))
    assert steady(two)


@pytest.mark.parametrize("kind", [Service, Renaming, Lying])
def test_a_thief_s_settings_say_how_often_and_why_items_are_taken_back(kind: type[Service]) -> None:
    small = {"model": "SASRec", "hidden_size": 8, "inner_size": 8, "n_layers": 1, "max_length": LENGTH, "epochs": 1}
    small |= {"queries": "random", "beginner": BEGINNER}
    for tries, looks in ((0, {}), (3, {"backtrack": 3, "sign": kind.sign})):
        service = kind(kind.some)
        thief = Thief(ThiefSettings.make({**small, **looks}))
        recording = thief.ask(service, N_ITEMS, 400, 0)
        assert service.calls == recording.calls == 400
        assert (recording[0].taken_back > 0) == bool(tries)
        assert thief.learn(recording, N_ITEMS, 0).calls == 400
