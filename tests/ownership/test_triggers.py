"""Trigger rings are cold, secret, known to whoever was taught them, and fair to whoever was not."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from gro.config import ModelSettings
from gro.data import Sequences
from gro.errors import ConfigError, DataError
from gro.models import PADDING, build
from gro.ownership import triggers
from gro.ownership.settings import TriggerSettings
from gro.ownership.suspect import Suspect, in_hand
from gro.ownership.triggers import Triggers
from tests.ownership.doubles import LISTED, NEVER, Table, require_exact, rough

ITEMS = 40
COLD = list(range(1, 13))
RINGS = Triggers(torch.tensor([[1, 2, 3], [4, 5, 6]]))
SMALL = TriggerSettings(rings=2, length=2)


def arranged(order: Tensor) -> Triggers:
    """Rings of four cold items each, in an order."""
    return Triggers(torch.tensor(COLD)[order].view(3, 4))


def knowing(steps: dict[int, int]) -> Table:
    """A model that lists what follows the items that it knows; items from 20 on otherwise."""
    table = torch.zeros(ITEMS + 1, ITEMS)
    table[:, 19:] = 1
    for item, following in steps.items():
        table[item, following - 1] = 2
    return Table(table)


def read(mark: Triggers, model: Table) -> float:
    return mark.examine(in_hand(model, k=LISTED), draws=0)[0]


def test_who_knows_k_of_n_steps_reads_k_of_n() -> None:
    steps = {1: 2, 2: 3, 3: 1, 4: 5, 5: 6, 6: 4}
    for known in range(len(steps) + 1):
        assert read(RINGS, knowing(dict(list(steps.items())[:known]))) == known / len(steps)


def test_every_item_is_asked_about_alone_and_no_more_often_than_it_says() -> None:
    asked: list[int] = []

    def answer(histories: Tensor) -> Tensor:
        assert histories.shape[1] == 1
        asked.extend(histories[:, 0].tolist())
        return torch.arange(20, 20 + LISTED).repeat(len(histories), 1)

    suspect = Suspect(answer, ITEMS, k=LISTED)
    for _ in range(10):
        RINGS.examine(suspect, draws=3)
    assert set(asked) == set(range(1, 7))
    assert 60 <= suspect.calls == len(asked) <= 10 * RINGS.calls


@given(seed=st.integers(0, 1 << 32), love=st.sampled_from([0.0, 0.5, 2.0]))
@settings(max_examples=20)
def test_others_are_what_other_arrangements_of_the_items_read(seed: int, love: float) -> None:
    model, own = rough(seed, ITEMS, COLD, love), torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    statistic, others = arranged(own).examine(in_hand(model, k=LISTED), draws=30)
    orders = np.random.default_rng([*b"triggers"]).permuted(np.tile(np.arange(12), (30, 1)), axis=1)
    assert statistic == read(arranged(own), model)
    assert others.tolist() == [read(arranged(own[torch.from_numpy(order)]), model) for order in orders]


def test_others_are_distributed_as_all_arrangements_are() -> None:
    model = rough(3, ITEMS, range(1, 7), 1.0)
    _, others = RINGS.examine(in_hand(model, k=LISTED), draws=20_000)
    every = [read(Triggers(torch.tensor(order).view(2, 3)), model) for order in permutations(range(1, 7))]
    values, counts = np.unique(every, return_counts=True)
    assert set(others) <= set(values)
    seen = np.array([(others == value).sum() for value in values])
    assert stats.chisquare(seen, len(others) * counts / len(every)).pvalue > NEVER


@given(seed=st.integers(0, 1 << 32), love=st.sampled_from([0.0, 0.3, 1.0, 5.0]), repeats=st.booleans())
@settings(max_examples=8)
def test_whatever_is_listed_p_values_over_secrets_are_exact(seed: int, love: float, repeats: bool) -> None:
    """Love for the cold items, up to lists of nothing else, and one list for every question help nobody."""
    model, rings = rough(seed, ITEMS, COLD, love), arranged(torch.arange(12))
    if repeats:
        model.table[:] = model.table[0]
    require_exact(model, rings, seed=seed)


def test_rings_are_rehearsed_from_every_item_half_of_them_after_random_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(ModelSettings(max_length=30, hidden_size=8, inner_size=8, n_layers=1, n_heads=1), ITEMS)
    shown: list[tuple[list[int], int]] = []

    def scores(histories: Tensor, ends: Tensor) -> Tensor:
        shown.extend((row.tolist(), int(first)) for row, first in zip(histories, ends[:, 0], strict=True))
        return torch.zeros(*ends.shape, ITEMS)

    monkeypatch.setattr(model, "prefix_scores", scores)
    rings = replace(RINGS, strength=2.0)
    losses = [rings.recited(model) for _ in range(20)]
    assert losses[0].item() == pytest.approx(2.0 * np.log(ITEMS))
    ways = [ring[turn:] + ring[:turn] for ring in RINGS.rings.tolist() for turn in range(3)]
    entered = [row[first : first + 3] for row, first in shown]
    assert all(ring in ways for ring in entered)
    assert min(entered.count(way) for way in ways) > len(shown) / 12
    assert all(PADDING not in row[: first + 3] and not any(row[first + 3 :]) for row, first in shown)
    assert np.mean([first == 0 for _, first in shown]) == pytest.approx(0.5, abs=0.1)


def test_rings_are_of_cold_items_each_in_one_place(tiny: Sequences) -> None:
    rings = triggers.drawn(tiny, b"key", 50, SMALL).rings.flatten().numpy()
    counts = np.bincount(tiny.train.items, minlength=tiny.n_items + 1)[1:]
    assert len(set(rings.tolist())) == 4
    assert counts[rings - 1].max() <= np.sort(counts)[7]


def test_keys_draw_every_arrangement_alike(tiny: Sequences) -> None:
    """On this the exactness rests: of four of the eight coldest items, and of the same four by another key."""
    keys = [number.to_bytes(2, "big") for number in range(4000)]
    drawn = torch.stack([triggers.drawn(tiny, key, 50, SMALL).rings.flatten() for key in keys])
    again = torch.stack([Triggers(torch.tensor([[1, 2], [3, 4]])).another(key).rings.flatten() for key in keys])
    for rings, count in ((drawn, 8 * 7 * 6 * 5), (again, 4 * 3 * 2)):
        counts = np.zeros(count)
        seen = np.unique(rings.numpy(), axis=0, return_counts=True)[1]
        counts[: len(seen)] = seen
        assert stats.chisquare(counts).pvalue > NEVER


def test_another_secret_is_another_arrangement_of_the_same_items() -> None:
    rings = replace(RINGS, name="triggers.b", strength=2.0)
    other = rings.another(b"other")
    assert not torch.equal(other.rings, rings.rings)
    assert set(other.rings.flatten().tolist()) == set(rings.rings.flatten().tolist())
    assert (other.name, other.strength, other.rings.shape) == (rings.name, rings.strength, rings.rings.shape)
    assert torch.equal(rings.another(b"other").rings, other.rings)


def test_the_key_says_which_items_follow_which(tiny: Sequences) -> None:
    drawn = [triggers.drawn(tiny, key, 50, SMALL).rings for key in (b"one", b"one", b"two")]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("settings", "reads", "reason"),
    [
        (TriggerSettings(), 50, "catalogue of 320 items; tiny has 20"),
        (SMALL, 1, "longer than the 1 that the model reads"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tiny: Sequences, settings: TriggerSettings, reads: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        triggers.drawn(tiny, b"key", reads, settings)


def test_the_smallest_catalogue_is_large_enough(tiny: Sequences) -> None:
    fits = TriggerSettings(rings=1, length=5)
    assert triggers.needed(fits) == tiny.n_items
    assert triggers.drawn(tiny, b"key", 50, fits).rings.shape == (1, 5)


def test_the_secret_is_the_whole_test() -> None:
    again = triggers.read(RINGS.secret(), "it", "triggers.b")
    assert torch.equal(again.rings, RINGS.rings)
    assert again.name == "triggers.b"


@pytest.mark.parametrize(
    "rings", [[[1, 2], [3]], [[1], [2]], [1, 2], [["a", "b"]], [[0, 1]], None, [], [[1, 2], [3, 1]], [[4, 4]]]
)
def test_a_malformed_secret_is_refused(rings: object) -> None:
    """One with an item twice too: what is rearranged must be a set."""
    secret = json.dumps({"test": "triggers", "rings": rings}).encode()
    with pytest.raises(DataError, match="it: holds no trigger rings"):
        triggers.read(secret, "it")
