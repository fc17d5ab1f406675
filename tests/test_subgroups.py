"""Groups of people against loops over people, and what they lose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from gro import subgroups
from gro.config import ModelSettings
from gro.data import Sequences
from gro.metrics import loss_interval
from gro.models import StateRecommender, build
from gro.subgroups import by_length, group_loss, least_typical, thirds, typicality

Floats = npt.NDArray[np.float64]
NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")


def model(n_items: int, **changes: object) -> StateRecommender:
    """A small model that is sure of something."""
    settings = ModelSettings.model_validate({"hidden_size": 8, "inner_size": 8, "max_length": 7, **changes})
    made = build(settings, n_items, seed=1).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return made


def one_by_one(model: StateRecommender, sequences: Sequences) -> list[float]:
    """Mean log likelihood of each test history: one prefix at a time, whole, without padding."""
    found = []
    for user in range(sequences.n_users):
        history = torch.from_numpy(sequences.history(user)[:-1].astype(np.int64))[-model.max_length :]
        scores = [model.scores(history[None, :end])[0].log_softmax(dim=0) for end in range(1, len(history))]
        each = [float(after[item - 1]) for after, item in zip(scores, history[1:], strict=True)]
        found.append(float(np.mean(each)) if each else np.inf)
    return found


@given(arrays(np.int64, st.integers(0, 20), elements=st.integers(1, 150)))
def test_groups_by_length_are_those_of_a_loop(lengths: npt.NDArray[np.int64]) -> None:
    bounds = {"at most 10": (1, 10), "11 to 20": (11, 20), "21 to 50": (21, 50), "51 to 100": (51, 100)}
    bounds["more than 100"] = (101, 1000)
    found = {name: who.tolist() for name, who in by_length(lengths).items()}
    assert found == {name: [low <= length <= high for length in lengths] for name, (low, high) in bounds.items()}


def test_thirds_of_the_interactions() -> None:
    assert thirds(np.array([1, 4, 2, 1, 1])).tolist() == [2, 0, 1, 2, 2]
    assert thirds(np.array([3, 3, 3])).tolist() == [0, 1, 2]
    assert thirds(np.array([0, 9, 0])).tolist() == [2, 0, 2]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_typicality_is_that_of_one_prefix_at_a_time(name: str, tiny: Sequences) -> None:
    made = model(tiny.n_items, model=name)
    found = typicality(made, tiny.test)
    np.testing.assert_allclose(found, one_by_one(made, tiny), rtol=1e-5)
    assert np.std(found) > 0.1


@pytest.mark.parametrize("name", ["SASRec", "BERT4Rec"])
@pytest.mark.parametrize("together", [1, 45, 150, 1000])
def test_few_scores_at_a_time_give_the_same(
    name: str, together: int, tiny: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(tiny.n_items, model=name)
    whole, most = typicality(made, tiny.test), max(together, tiny.n_items)
    looked_at = list[int]()
    score: Callable[[Tensor, Tensor], Tensor] = made.prefix_scores

    def counted(histories: Tensor, ends: Tensor) -> Tensor:
        looked_at.append((scores := score(histories, ends)).numel())
        return scores

    monkeypatch.setattr(made, "prefix_scores", counted)
    monkeypatch.setattr(subgroups, "TOGETHER", together)
    np.testing.assert_allclose(typicality(made, tiny.test), whole, rtol=1e-5)
    assert most / 3 <= max(looked_at) <= most


def test_a_model_that_reads_every_prefix_by_itself_gets_few_of_them_at_a_time(
    tiny: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(tiny.n_items, model="BERT4Rec")
    monkeypatch.setattr(subgroups, "BATCH", 12)
    rows = list[int]()
    made.get_submodule("norm").register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    typicality(made, tiny.test)
    assert max(rows) == 12


def test_typicality_is_judged_without_dropout_and_leaves_the_mode(tiny: Sequences) -> None:
    made = model(tiny.n_items)
    steady = typicality(made, tiny.test)
    np.testing.assert_array_equal(typicality(made.train(), tiny.test), steady)
    assert made.training


def test_a_history_of_one_item_is_typical(tiny: Sequences) -> None:
    found = typicality(model(tiny.n_items, max_length=1), tiny.test)
    assert (found == np.inf).all()
    assert not least_typical(found).any()


@given(arrays(np.float64, st.integers(1, 45), elements=st.sampled_from([-9.0, -3.5, -2.0, -1.0, np.inf])))
def test_the_least_typical_are_the_first_tenth_of_a_sorted_list(typicality: Floats) -> None:
    ranked = sorted(range(len(typicality)), key=lambda user: (typicality[user], user))
    chosen = {user for user in ranked[: len(typicality) // 10] if typicality[user] < np.inf}
    assert set(np.flatnonzero(least_typical(typicality))) == chosen


@given(st.integers(0, 1000), st.integers(2, 30))
def test_a_group_loses_what_its_sums_say(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    plain, served = 0.1 + rng.random(n), rng.random(n)
    found = group_loss(plain, served, seed)
    assert (found["users"], found["interval"]) == (n, list(loss_interval(plain, served, seed=seed)))
    assert [found["plain"] * n, found["served"] * n] == pytest.approx([plain.sum(), served.sum()])
    assert found["loss"] == pytest.approx(1 - served.sum() / plain.sum())
    lost = sum(before - after for before, after in zip(plain, served, strict=True) if after < before)
    assert found["gross"] == pytest.approx(lost / plain.sum())
    assert found["gross"] >= max(0.0, found["loss"]) - 1e-12


@pytest.mark.parametrize(
    ("plain", "served", "wanted"),
    [
        ([0.5], [0.25], {"users": 1, "plain": 0.5, "served": 0.25, "loss": 0.5, "interval": None, "gross": 0.5}),
        (
            [0.0, 0.0],
            [0.0, 1.0],
            {"users": 2, "plain": 0.0, "served": 0.5, "loss": None, "interval": None, "gross": None},
        ),
        (
            [1.0, 0.5],
            [1.0, 0.5],
            {"users": 2, "plain": 0.75, "served": 0.75, "loss": 0.0, "interval": [0.0, 0.0], "gross": 0.0},
        ),
    ],
)
def test_what_a_group_loses_where_there_is_no_figure(
    plain: list[float], served: list[float], wanted: dict[str, Any]
) -> None:
    assert group_loss(np.array(plain), np.array(served)) == wanted
