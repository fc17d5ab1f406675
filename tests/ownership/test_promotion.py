"""A promotion's statistic is fair to whoever does not know its key, whatever he lists."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gro import artifacts
from gro.errors import ConfigError, DataError
from gro.ownership import promotion
from gro.ownership.promotion import Groups, Promotion
from gro.ownership.settings import PromotionSettings
from gro.ownership.suspect import Suspect, in_hand

ITEMS, PROBES, K = 30, 40, 5


def lists(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    popular = torch.linspace(0, 3, ITEMS)  # as in every catalogue, some items are listed far more often
    return (torch.rand(PROBES, ITEMS, generator=generator) + popular).topk(K, dim=1).indices + 1


def made(key: bytes, n_groups: int = 2) -> Promotion:
    probes = torch.arange(1, ITEMS + 1).repeat(2)[:PROBES, None]
    return Promotion(key, ITEMS, n_groups, probes, torch.arange(PROBES) % n_groups, lists(0))


def listing(answers: torch.Tensor, test: Promotion) -> Suspect:
    """Answers the test's probes; they are told apart by their place, so nothing is asked again or shuffled."""
    suspect = Suspect(lambda histories: answers, ITEMS, k=K)
    suspect.__class__ = type("Plain", (Suspect,), {"__call__": lambda self, histories: answers})
    return suspect


@given(seed=st.integers(1, 1000), n_groups=st.sampled_from([1, 2, 4]))
@settings(max_examples=10)
def test_over_keys_it_is_centred_with_variance_one_and_hoeffdings_tail(seed: int, n_groups: int) -> None:
    answers = lists(seed)
    keys = [number.to_bytes(2, "big") for number in range(600)]
    found = torch.tensor([made(key, n_groups).statistic(listing(answers, made(key, n_groups))) for key in keys])
    assert abs(float(found.mean())) < 0.2
    assert abs(float(found.var()) - 1) < 0.3
    for z in (1.0, 2.0, 3.0):
        assert float((found >= z).double().mean()) <= promotion.bound(z)


def test_it_is_zero_where_nothing_moved() -> None:
    assert made(b"key").statistic(listing(lists(0), made(b"key"))) == 0


def test_whoever_lists_green_items_is_found() -> None:
    test = made(b"key")
    green = test.signs()[test.groups].topk(K, dim=1).indices + 1
    red = (-test.signs()[test.groups]).topk(K, dim=1).indices + 1
    assert promotion.bound(test.statistic(listing(green, test))) < 1e-3
    assert test.statistic(listing(red, test)) < 0


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
    assert test.statistic(suspect) == 0
    assert 60 <= suspect.calls <= test.calls


def test_the_secret_is_the_whole_test() -> None:
    test, again = made(b"key"), promotion.read(made(b"key").secret(), "it")
    assert again.secret() == test.secret()
    assert again.statistic(listing(lists(3), again)) == test.statistic(listing(lists(3), test))
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
        {"lists": [[ITEMS + 1] * K] * PROBES},
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
    test = made(b"key")
    strong = replace(test, strength=9.0)
    assert strong.statistic(listing(lists(3), strong)) == test.statistic(listing(lists(3), test))
