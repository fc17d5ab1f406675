"""Dataset inference: a null that is a coin, on suspects that know members' histories, everybody's or nobody's."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gro.config import TrainingSettings
from gro.data import Sequences
from gro.errors import ConfigError, DataError
from gro.models import StateRecommender, build
from gro.optimizer.plain import adamw, learn_epoch
from gro.ownership import inference
from gro.ownership.inference import Membership, chance, contrast, draw, fit, made, questions, read, without
from gro.ownership.suspect import Inconclusive, Suspect, in_hand
from gro.serving import RankingService

N_USERS, N_ITEMS, SIZE, K = 80, 200, 30, 10
SCORES = st.lists(st.floats(-100, 100), min_size=4, max_size=12)


class Remembers:
    """Lists the items that followed one of the histories that it knows; random ones, fixed ones, to others."""

    def __init__(self, sequences: Sequences, users: np.ndarray) -> None:
        self.known = {
            tuple(history[:cut]): history[cut : cut + K]
            for history in (sequences.history(int(user)).tolist() for user in users)
            for cut in range(1, len(history))
        }

    def __call__(self, histories: Tensor) -> Tensor:
        return torch.stack([self._list([item for item in row if item]) for row in histories.tolist()])

    def _list(self, history: list[int]) -> Tensor:
        others = np.random.default_rng(history).permutation(np.arange(1, N_ITEMS + 1)).tolist()
        return torch.tensor(list(dict.fromkeys([*self.known.get(tuple(history), []), *others]))[:K])


@pytest.fixture(scope="module")
def people() -> Sequences:
    """Histories without any order, so that who lists the rest of one has seen it."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(8, 16, N_USERS)
    items = np.concatenate([rng.permutation(N_ITEMS)[:length] + 1 for length in lengths]).astype(np.int32)
    tokens = np.array([f"t{n}" for n in range(N_ITEMS + 1)])
    return Sequences("toy", np.concatenate([[0], lengths.cumsum()]), items, tokens, tokens[:N_USERS])


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return draw(N_USERS, SIZE, seed=1)


@pytest.fixture(scope="module")
def test(people: Sequences, drawn: tuple[np.ndarray, np.ndarray]) -> Membership:
    nobody = np.empty(0, dtype=np.int64)
    return made(people, *drawn, [Remembers(people, nobody), Remembers(people, np.arange(N_USERS))], cuts=3, k=K)


def p_value(test: Membership, ask: Remembers) -> float:
    return chance(test.scores(Suspect(ask, N_ITEMS, k=K)), test.members)


def test_who_knows_the_members_is_claimed(
    test: Membership, people: Sequences, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    thief = Remembers(people, drawn[0][: SIZE // 3])
    assert p_value(test, thief) < 0.01
    assert test.statistic(Suspect(thief, N_ITEMS, k=K)) > 2.5


def test_who_knows_the_members_by_a_like_chance_as_public_people_is_not(
    test: Membership, people: Sequences, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    assert p_value(test, Remembers(people, np.concatenate(drawn)[::2])) > 0.05
    assert p_value(test, Remembers(people, drawn[1])) > 0.9


def test_no_more_innocents_are_claimed_than_the_level_says(people: Sequences) -> None:
    nobody = Remembers(people, np.empty(0, dtype=np.int64))
    suspects = [Remembers(people, np.random.default_rng(seed).permutation(N_USERS)[:40]) for seed in range(4)]
    p_values = []
    for seed in range(25):
        test = made(people, *draw(N_USERS, SIZE, seed), [nobody], cuts=1, k=K)
        p_values += [chance(test.scores(Suspect(ask, N_ITEMS, k=K)), test.members, 199) for ask in suspects]
    assert len(p_values) == 100
    assert sum(p <= 0.1 for p in p_values) <= 21  # beyond it with a probability of 0.0005
    assert sum(p <= 0.5 for p in p_values) >= 33  # nor are p-values too large


def test_a_model_that_overfits_its_histories_is_told_by_its_lists(people: Sequences) -> None:
    members, public = draw(N_USERS, SIZE, seed=2)
    owner, others = without(people, public), without(people, np.union1d(members, public))
    refs = [RankingService(trained(sequences, seed), K) for sequences, seed in ((people, 1), (others, 2))]
    test = made(people, members, public, refs, k=K)
    found = {
        name: chance(test.scores(in_hand(trained(sequences, 3), k=K)), test.members)
        for name, sequences in (("owner", owner), ("others", others), ("everybody", people))
    }
    assert found["owner"] < 0.001
    assert found["others"] > 0.01
    assert found["everybody"] > 0.01


def trained(sequences: Sequences, seed: int) -> StateRecommender:
    recipe = {"model": "GRU4Rec", "hidden_size": 32, "dropout": 0.0, "max_length": 20, "learning_rate": 0.01}
    how = TrainingSettings.make({**recipe, "item_dropout": 0.0, "batch_size": 16})
    model = build(how, sequences.n_items, seed=seed)
    optimizer = adamw(model, how)
    for epoch in range(15):
        list(learn_epoch(model, optimizer, sequences, how, epoch))
    return model


def test_who_is_a_member_has_no_part_in_the_questions(people: Sequences) -> None:
    members, public = draw(N_USERS, SIZE, seed=4)
    ask = Remembers(people, np.empty(0, dtype=np.int64))
    one, other = (made(people, *each, [ask], k=K) for each in ((members, public), (public, members)))
    assert torch.equal(one.stretches, other.stretches)
    assert np.array_equal(one.expected, other.expected)
    suspect = Remembers(people, members)
    statistics = [each.statistic(Suspect(suspect, N_ITEMS, k=K)) for each in (one, other)]
    assert statistics[0] == pytest.approx(-statistics[1])


def test_stretches_are_parts_of_their_persons_histories(people: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WIDTH", 4)
    members, public = draw(N_USERS, SIZE, seed=5)
    test = made(people, members, public, [Remembers(people, members)], cuts=100, k=K)
    everybody = np.union1d(members, public)
    assert np.array_equal(np.isin(everybody, members), test.members)
    assert np.array_equal(np.bincount(test.person), [len(people.history(int(user))) - 1 for user in everybody])
    for row, asked, person in zip(test.stretches.tolist(), test.asked.tolist(), test.person, strict=True):
        stretch, history = [item for item in row if item], people.history(int(everybody[person])).tolist()
        start = history.index(stretch[0])
        assert stretch == history[start : start + len(stretch)]
        assert 1 <= asked <= 4
        assert 1 <= len(stretch) - asked <= 4


def test_what_the_references_explain_is_taken_off(test: Membership, people: Sequences) -> None:
    reference = Suspect(Remembers(people, np.arange(N_USERS)), N_ITEMS, k=K)
    scores = test.scores(reference)
    assert np.abs(scores).max() < 1e-9
    assert (contrast(scores, test.members), chance(scores, test.members)) == (0, 1)


def test_a_suspect_is_asked_no_more_than_is_said(test: Membership, people: Sequences) -> None:
    suspect = Suspect(Remembers(people, np.arange(5)), N_ITEMS, k=K)
    test.statistic(suspect)
    assert suspect.calls <= test.calls <= 1.06 * len(test.stretches) + 1


def test_longer_lists_are_read_as_far_as_the_references_were(test: Membership, people: Sequences) -> None:
    ask = Remembers(people, np.arange(40))
    longer = Suspect(
        lambda rows: torch.cat([ask(rows), N_ITEMS + 1 + torch.arange(5).repeat(len(rows), 1)], 1), 300, k=15
    )
    assert test.statistic(longer) == test.statistic(Suspect(ask, N_ITEMS, k=K))


def test_shorter_lists_are_inconclusive(test: Membership, people: Sequences) -> None:
    with pytest.raises(Inconclusive, match="lists have 9 items; dataset inference reads 10"):
        test.statistic(Suspect(Remembers(people, np.arange(5)), N_ITEMS, k=9))


def test_a_secret_makes_the_test_again(test: Membership, people: Sequences) -> None:
    again = read(test.secret(), "there")
    suspect = Remembers(people, np.arange(30))
    one, other = (each.scores(Suspect(suspect, N_ITEMS, k=K)) for each in (test, again))
    assert np.array_equal(one, other)
    assert (again.calls, again.k, again.secret()) == (test.calls, test.k, test.secret())


SECRET = {
    "test": "inference",
    "stretches": [[1, 2], [3, 4, 5]],
    "asked": [1, 2],
    "person": [0, 1],
    "members": [True, False],
    "expected": [[0.5], [1.0]],
    "k": 3,
}


@pytest.mark.parametrize(
    "changed",
    [
        {"test": "fingerprint"},
        {"stretches": [[1, 2]]},
        {"stretches": [[1, 2], [3, 0, 5]]},
        {"asked": [1, 4]},
        {"asked": [0, 1]},
        {"person": [0, 2]},
        {"members": [True, True]},
        {"expected": [[0.5], [1.0, 2.0]]},
        {"expected": [[0.5], [float("nan")]]},
        {"k": 0},
        {"more": 1},
    ],
)
def test_a_secret_that_is_malformed_is_refused(changed: dict[str, object]) -> None:
    assert read(json.dumps(SECRET).encode(), "there").members.tolist() == [True, False]
    with pytest.raises(DataError, match="there: holds no dataset inference"):
        read(json.dumps({**SECRET, **changed}).encode(), "there")


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff", b"{}", b"[" * 100_000])
def test_what_is_no_secret_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="holds no dataset inference"):
        read(content, "there")


def test_a_test_needs_references_and_people_to_ask_about(people: Sequences) -> None:
    with pytest.raises(DataError, match="at least one reference"):
        made(people, np.array([0]), np.array([1]), [])
    short = Sequences(
        "s", np.array([0, 1, 4]), np.array([1, 1, 2, 3], dtype=np.int32), np.arange(4).astype(str), np.array(["a", "b"])
    )
    with pytest.raises(DataError, match="user 'a' has one item"):
        made(short, np.array([0]), np.array([1]), [Remembers(people, np.array([0]))])


@given(st.integers(2, 40), st.integers(0, 2**32), st.data())
def test_a_draw_is_two_groups_of_different_people(n_users: int, seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, n_users // 2))
    members, public = draw(n_users, size, seed)
    assert len(members) == len(public) == size
    assert len(np.union1d(members, public)) == 2 * size
    assert set(members) | set(public) <= set(range(n_users))


@pytest.mark.parametrize("size", [0, 6])
def test_more_people_than_there_are_cannot_be_drawn(size: int) -> None:
    with pytest.raises(ConfigError, match=f"{size} members and as many public people cannot be drawn from 11 users"):
        draw(11, size, 0)


def test_what_is_set_aside_is_gone_and_nothing_else(people: Sequences) -> None:
    rest = without(people, np.array([0, 7, N_USERS - 1]))
    kept = [user for user in range(N_USERS) if user not in (0, 7, N_USERS - 1)]
    assert rest.user_tokens.tolist() == people.user_tokens[kept].tolist()
    assert [rest.history(i).tolist() for i in range(rest.n_users)] == [people.history(u).tolist() for u in kept]
    assert rest.n_items == people.n_items


@given(st.data())
def test_a_fit_is_what_the_places_of_the_items_are_worth(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 4))
    k, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7))
    lists = [data.draw(st.permutations(range(1, 9)))[:k] for _ in range(rows)]
    sizes = [data.draw(st.integers(1, width)) for _ in range(rows)]
    items = [data.draw(st.lists(st.integers(1, 8), min_size=size, max_size=size)) for size in sizes]
    stretches = torch.tensor([row + [0] * (width - len(row)) for row in items])
    expected = [
        sum(np.log2(2 * k / place) for place, item in enumerate(listed, start=1) if item in row)
        for listed, row in zip(lists, items, strict=True)
    ]
    assert fit(torch.tensor(lists), stretches) == pytest.approx(expected)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=5), st.data())
def test_a_question_holds_what_is_asked_and_nothing_after_it(rows: list[list[int]], data: st.DataObject) -> None:
    asked = [data.draw(st.integers(1, len(row))) for row in rows]
    stretches = torch.tensor([row + [0] * (6 - len(row)) for row in rows])
    shown = questions(stretches, torch.tensor(asked))
    assert [[item for item in row if item] for row in shown.tolist()] == [
        r[:n] for r, n in zip(rows, asked, strict=True)
    ]
    assert shown.shape[1] == max(asked)


@given(SCORES, st.floats(-10, 10), st.floats(0.1, 10), st.data())
def test_a_contrast_has_a_sign_and_no_unit(scores: list[float], shift: float, unit: float, data: st.DataObject) -> None:
    values, members = np.array(scores), coins(len(scores), data)
    found = contrast(values, members)
    assert contrast(values, ~members) == pytest.approx(-found)
    if values.std() > 1e-3:
        assert contrast(unit * values + shift, members) == pytest.approx(found, abs=1e-6)


def test_alike_scores_say_nothing() -> None:
    members = np.array([True, False, True, False])
    assert contrast(np.ones(4), members) == 0
    assert chance(np.ones(4), members) == 1


@settings(max_examples=30)
@given(st.lists(st.integers(-5, 5), min_size=4, max_size=8), st.data())
def test_a_chance_is_the_share_of_the_divisions_with_as_large_a_contrast(
    scores: list[int], data: st.DataObject
) -> None:
    values, members = np.array(scores) / 3, coins(len(scores), data)
    least = values[members].sum() - 1e-12
    divisions = [values[list(each)].sum() for each in itertools.combinations(range(len(values)), members.sum())]
    exact, draws = np.mean(np.array(divisions) >= least), 1_000
    assert chance(values, members, draws) == pytest.approx(
        exact, abs=5 * np.sqrt(exact * (1 - exact) / draws) + 1 / draws
    )


def test_chances_over_all_coins_keep_the_level() -> None:
    values = np.random.default_rng(0).exponential(size=8) ** 3
    found = []
    for chosen in itertools.combinations(range(8), 4):
        members = np.isin(np.arange(8), chosen)
        found.append(chance(values, members, 2_000))
    for level in (0.02, 0.1, 0.3, 0.5, 0.9):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.03)


def coins(size: int, data: st.DataObject) -> np.ndarray:
    count = data.draw(st.integers(1, size - 1))
    return np.isin(np.arange(size), data.draw(st.permutations(range(size)))[:count])
