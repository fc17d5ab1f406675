"""A promotion's statistic is fair to whoever does not know its key, whatever he lists."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gro import artifacts
from gro.errors import ConfigError, DataError
from gro.metrics import FloatArray
from gro.ownership import promotion
from gro.ownership.promotion import Groups, Promotion
from gro.ownership.settings import PromotionSettings
from gro.ownership.suspect import in_hand
from tests.ownership.doubles import LISTED, NEVER, Table, require_exact, rough

ITEMS, PROBES = 30, 40
PLAIN = rough(0, ITEMS)
seeds = st.integers(1, 1 << 31)


def made(key: bytes, n_groups: int = 2, n_items: int = ITEMS, plain: Table = PLAIN) -> Promotion:
    """Probes of one item each."""
    probes = torch.arange(PROBES)[:, None] % n_items + 1
    lists = plain.scores(probes).topk(LISTED, dim=1).indices + 1
    return Promotion(key, n_items, n_groups, probes, torch.arange(PROBES) % n_groups, lists)


def read(mark: Promotion, model: Table, draws: int = 0) -> tuple[float, FloatArray]:
    return mark.examine(in_hand(model, k=LISTED), draws)


def moved(mark: Promotion, model: Table) -> FloatArray:
    """How much more often than the plain model one lists each item in each group ``[n_groups * n_items]``, counted."""
    found = np.zeros((mark.n_groups, mark.n_items))
    theirs = model.scores(mark.probes).topk(LISTED, dim=1).indices + 1
    for group, ours, others in zip(mark.groups.tolist(), mark.lists.tolist(), theirs.tolist(), strict=True):
        for item in others:
            found[group, item - 1] += 1
        for item in ours:
            found[group, item - 1] -= 1
    return found.flatten()


@given(seeds, st.sampled_from([1, 2, 4]))
@settings(max_examples=10)
def test_the_statistic_is_the_lean_to_the_green_items(seed: int, n_groups: int) -> None:
    mark, model = made(b"key", n_groups), rough(seed, ITEMS)
    steps, signs = moved(mark, model), mark.signs().flatten().numpy()
    assert read(mark, model)[0] == pytest.approx(steps @ signs / np.linalg.norm(steps))


@given(seeds)
@settings(max_examples=5)
def test_over_all_signs_it_has_mean_zero_and_variance_one_and_others_are_drawn_from_them(seed: int) -> None:
    """Against a dense table of all sign vectors of a catalogue of ten items."""
    mark, model = made(b"key", 1, 10, rough(0, 10)), rough(seed, 10)
    steps = moved(mark, model)
    every = np.array(list(product((-1.0, 1.0), repeat=10))) @ steps / np.linalg.norm(steps)
    assert every.mean() == pytest.approx(0, abs=1e-12)
    assert every.var() == pytest.approx(1)
    statistic, others = read(mark, model, draws=20_000)
    values, counts = np.unique(every.round(9), return_counts=True)
    assert {round(statistic, 9), *others.round(9)} <= set(values)
    wanted = len(others) * counts / len(every)
    seen = np.array([(others.round(9) == value).sum() for value in values])
    assert stats.chisquare(seen, wanted).pvalue > NEVER


@given(seeds)
@settings(max_examples=10)
def test_secrets_that_read_the_same_are_ties_to_the_last_bit(seed: int) -> None:
    """Else arithmetic would break the ties, and not by lot."""
    statistic, others = read(made(b"key"), rough(seed, ITEMS), draws=2000)
    everything = np.append(others, statistic)
    assert len(np.unique(everything)) == len(np.unique(everything.round(9)))


@given(seeds, st.sampled_from([1, 2, 4]), st.sampled_from([0.0, 0.3, 5.0]))
@settings(max_examples=6)
def test_whatever_is_listed_p_values_over_keys_are_exact(seed: int, n_groups: int, love: float) -> None:
    require_exact(rough(seed, ITEMS, range(1, 8), love), made(b"", n_groups), seed=seed)


def test_who_moved_two_cells_is_no_less_safe() -> None:
    """Four secrets in all: a half of them reads nothing, a quarter as much as can be."""
    model = Table(PLAIN.table.clone())
    last = model.table[5].argsort(descending=True)[LISTED - 1 : LISTED + 1]
    model.table[5, last] = model.table[5, last.flip(0)]
    assert np.count_nonzero(moved(made(b"key", 1), model)) == 2
    require_exact(model, made(b"", 1))


def test_it_is_zero_where_nothing_moved() -> None:
    statistic, others = read(made(b"key"), PLAIN, draws=50)
    assert statistic == 0
    assert others.tolist() == [0.0] * 50


def test_whoever_lists_green_items_is_found() -> None:
    test = made(b"key", 1)
    green, red = (Table(PLAIN.table + lean * test.signs()) for lean in (1.0, -1.0))
    statistic, others = read(test, green, draws=9_999)
    assert (others >= statistic).mean() < 1e-3
    assert read(test, red)[0] < 0


def test_another_secret_is_other_signs_of_the_same_probes() -> None:
    mark = replace(made(b"key"), name="promotion.b")
    other = mark.another(b"other")
    assert torch.equal(other.signs(), made(b"other").signs())
    assert not torch.equal(other.signs(), mark.signs())
    assert replace(other, key=b"key").secret() == mark.secret()
    assert other.name == mark.name


def test_signs_are_fair_and_the_keys_own() -> None:
    signs = promotion.keyed_signs(b"key", "items", 4000)
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 0.05
    others = (promotion.keyed_signs(b"kez", "items", 4000), promotion.keyed_signs(b"key", "directions", 4000))
    assert all(abs(float((signs * other).mean())) < 0.05 for other in others)


def test_directions_part_histories_in_halves(plain: Path) -> None:
    model = artifacts.load(plain).model
    test = promotion.drawn(model, b"key", PromotionSettings(directions=2, probes=64))
    assert test.n_groups == 4
    for side in (test.groups % 2, test.groups // 2):
        assert 16 <= int(side.sum()) <= 48
    states = torch.randn(3, 5, model.head.weight.shape[1])
    assert torch.equal(test.promoted(states).abs(), torch.full((3, 5, model.n_items), test.strength))
    assert isinstance(test.parted, Groups)
    assert torch.equal(test.promoted(states).sign(), test.signs()[test.parted(states)])


def test_the_plain_model_is_not_accused_and_calls_are_kept(plain: Path) -> None:
    model = artifacts.load(plain).model
    test = promotion.drawn(model, b"key", PromotionSettings(probes=60))
    suspect = in_hand(model)
    assert test.examine(suspect, draws=0)[0] == 0
    assert 60 <= suspect.calls <= test.calls


def test_the_secret_is_the_whole_test() -> None:
    test, again = made(b"key"), promotion.read(made(b"key").secret(), "it", "promotion.b")
    assert again.secret() == test.secret()
    assert again.name == "promotion.b"
    assert read(again, rough(3, ITEMS))[0] == read(test, rough(3, ITEMS))[0]
    with pytest.raises(ConfigError, match="not trained"):
        again.promoted(torch.zeros(1, 4))


@pytest.mark.parametrize(
    "change",
    [
        {"key": "xyz"},
        {"key": ""},
        {"probes": []},
        {"groups": [9] * PROBES},
        {"groups": [0]},
        {"lists": [[1, 2], [3]]},
        {"lists": [[ITEMS + 1] * LISTED] * PROBES},
        {"n_items": 3},
        {"test": "triggers"},
        {"n_groups": 10**12},
    ],
)
def test_a_malformed_secret_is_refused(change: dict[str, Any]) -> None:
    values = {**json.loads(made(b"key").secret()), **change}
    with pytest.raises(DataError, match="it: holds no promotion"):
        promotion.read(json.dumps(values).encode(), "it")


def test_a_secret_that_is_no_json_is_refused() -> None:
    with pytest.raises(DataError, match="it: holds no promotion"):
        promotion.read(b"\xff", "it")


def test_no_statistic_depends_on_how_strong_the_promotion_was() -> None:
    test, model = made(b"key"), rough(3, ITEMS)
    assert read(replace(test, strength=9.0), model)[0] == read(test, model)[0]
