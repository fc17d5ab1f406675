from __future__ import annotations

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gro import _recbole
from gro.errors import GroError
from gro.metrics import (
    access_advantage,
    advantage_interval,
    advantage_intervals,
    agreement,
    hit_rate,
    loss_interval,
    mean_interval,
    ndcg,
    rbo,
    utility,
)

Ints = npt.NDArray[np.int64]
RANKS = st.lists(st.integers(1, 60), min_size=1, max_size=30).map(np.array)
N_ITEMS = 12


@st.composite
def pairs_of_lists(draw: st.DrawFn) -> tuple[Ints, Ints]:
    """Two sets of lists ``[n, k]`` of distinct items."""
    n, k = draw(st.integers(1, 6)), draw(st.integers(1, N_ITEMS))
    rows = st.permutations(range(1, N_ITEMS + 1)).map(lambda row: row[:k])
    return np.array([draw(rows) for _ in range(n)]), np.array([draw(rows) for _ in range(n)])


@given(RANKS, st.integers(1, 70))
def test_hit_rate_and_ndcg_are_their_definitions(ranks: Ints, k: int) -> None:
    relevance = np.arange(1, 71) == ranks[:, None]
    discounts = 1 / np.log2(np.arange(1, 71) + 1)
    np.testing.assert_array_equal(hit_rate(ranks, k), relevance[:, :k].sum(axis=1))
    np.testing.assert_allclose(ndcg(ranks, k), (relevance * discounts)[:, :k].sum(axis=1), rtol=1e-15)


@given(RANKS, st.integers(1, 69))
def test_utility_is_bounded_and_grows_with_the_cutoff(ranks: Ints, k: int) -> None:
    shorter, longer = utility(ranks, [k]), utility(ranks, [k + 1])
    assert 0 <= shorter[f"ndcg@{k}"] <= shorter[f"hr@{k}"] <= 1
    assert shorter[f"hr@{k}"] <= longer[f"hr@{k + 1}"]
    assert shorter[f"ndcg@{k}"] <= longer[f"ndcg@{k + 1}"]


def test_utility_names_and_values() -> None:
    found = utility(np.array([1, 3, 11, 400]))
    assert list(found) == ["hr@1", "ndcg@1", "hr@5", "ndcg@5", "hr@10", "ndcg@10", "hr@20", "ndcg@20"]
    assert found["hr@1"] == found["ndcg@1"] == 0.25
    assert found["hr@10"] == 0.5
    assert found["ndcg@10"] == pytest.approx((1 + 0.5) / 4)
    assert found["hr@20"] == 0.75
    assert found["ndcg@20"] == pytest.approx((1 + 0.5 + 1 / math.log2(12)) / 4)


def test_utility_equals_recbole_evaluator() -> None:
    rng = np.random.default_rng(0)
    n, n_items, k = 500, 40, 20
    lists = rng.permuted(np.tile(np.arange(1, n_items + 1), (n, 1)), axis=1)
    targets = rng.integers(1, n_items + 1, n)
    places = (lists == targets[:, None]).argmax(axis=1) + 1
    theirs = _recbole.evaluate_lists(torch.from_numpy(lists[:, :k]), torch.from_numpy(targets))
    assert utility(places) == pytest.approx(theirs, rel=0, abs=1e-12)


@given(pairs_of_lists(), st.data())
def test_agreement_is_the_share_of_common_items(pair: tuple[Ints, Ints], data: st.DataObject) -> None:
    lists, others = pair
    k = data.draw(st.integers(1, lists.shape[1]))
    expected = [len(set(a[:k]) & set(b[:k])) / k for a, b in zip(lists.tolist(), others.tolist(), strict=True)]
    np.testing.assert_array_equal(agreement(lists, others, k), expected)
    np.testing.assert_array_equal(agreement(others, lists, k), expected)


@given(pairs_of_lists())
def test_agreement_ignores_the_order_above_the_cutoff_and_all_below(pair: tuple[Ints, Ints]) -> None:
    lists, others = pair
    k = (lists.shape[1] + 1) // 2
    shuffled = others.copy()
    shuffled[:, :k] = others[:, :k][:, ::-1]
    shuffled[:, k:] = N_ITEMS + 1 + np.arange(others.shape[1] - k)
    np.testing.assert_array_equal(agreement(lists, shuffled, k), agreement(lists, others, k))


def test_agreement_takes_lists_of_different_length() -> None:
    assert agreement(np.array([[1, 2, 3]]), np.array([[2, 1]]), 2).tolist() == [1.0]


@pytest.mark.parametrize(("rows", "k"), [(2, 3), (2, 0), (1, 2)])
def test_agreement_refuses_what_cannot_be_compared(rows: int, k: int) -> None:
    with pytest.raises(GroError, match=rf"agreement at {k} of lists \(2, 4\) and \({rows}, 2\)"):
        agreement(np.array([[1, 2, 3, 4]] * 2), np.array([[1, 2]] * rows), k)


@given(pairs_of_lists(), st.floats(0.05, 0.95))
def test_rbo_is_equation_30(pair: tuple[Ints, Ints], p: float) -> None:
    lists, others = pair
    k = lists.shape[1]
    expected = []
    for a, b in zip(lists.tolist(), others.tolist(), strict=True):
        overlaps = [len(set(a[:d]) & set(b[:d])) for d in range(1, k + 1)]
        tail = sum(x / d * p**d for d, x in enumerate(overlaps, start=1))
        expected.append(overlaps[-1] / k * p**k + (1 - p) / p * tail)
    np.testing.assert_allclose(rbo(lists, others, p), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(rbo(others, lists, p), expected, rtol=1e-12, atol=1e-15)


@given(pairs_of_lists(), st.floats(0.05, 0.95))
def test_rbo_is_one_for_the_same_list_and_zero_for_disjoint_ones(pair: tuple[Ints, Ints], p: float) -> None:
    lists, others = pair
    np.testing.assert_allclose(rbo(lists, lists, p), 1, rtol=1e-12)
    assert not rbo(lists, others + N_ITEMS, p).any()
    assert ((found := rbo(lists, others, p)) >= 0).all()
    assert (found <= 1 + 1e-12).all()


def test_rbo_weighs_the_top_more() -> None:
    lists = np.array([[1, 2, 3, 4]] * 2)
    swapped_top, swapped_bottom = rbo(lists, np.array([[2, 1, 3, 4], [1, 2, 4, 3]]))
    assert swapped_top < swapped_bottom < 1


@pytest.mark.parametrize(("width", "p"), [(1, 0.9), (2, 0.0), (2, 1.0), (2, math.nan)])
def test_rbo_refuses_other_shapes_and_persistence(width: int, p: float) -> None:
    with pytest.raises(GroError, match="shapes must match, p be within"):
        rbo(np.array([[1, 2]]), np.array([[1, 2]])[:, :width], p)


def test_access_advantage() -> None:
    assert access_advantage(0.3, 0.1, 0.3) == 1
    assert access_advantage(0.1, 0.1, 0.3) == 0
    assert access_advantage(0.05, 0.1, 0.3) < 0
    assert math.isnan(access_advantage(0.2, 0.3, 0.3))
    assert math.isnan(access_advantage(0.2, 0.3, 0.1))


def test_mean_interval_is_the_normal_one_for_many_users() -> None:
    values = np.random.default_rng(1).exponential(size=2000)
    low, high = mean_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=half / 5)
    assert high == pytest.approx(values.mean() + half, abs=half / 5)


def test_mean_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    intervals = [mean_interval(rng.exponential(size=150), seed=trial) for trial in range(300)]
    covered = np.mean([low <= 1 <= high for low, high in intervals])
    assert covered == pytest.approx(0.94, abs=4 * math.sqrt(0.06 * 0.94 / 300))


def test_intervals_follow_seed_confidence_and_resamples() -> None:
    values = np.random.default_rng(3).random(60)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1) != mean_interval(values, seed=2)
    narrow, wide = mean_interval(values, confidence=0.5), mean_interval(values, confidence=0.99)
    assert wide.low < narrow.low < values.mean() < narrow.high < wide.high
    assert mean_interval(values, n_resamples=50) != mean_interval(values)


def three_models(rng: np.random.Generator, n: int) -> list[npt.NDArray[np.float64]]:
    """Per-user NDCG of surrogate, floor and target with means 0.3, 0.2 and 0.4, alike within a user."""
    user = rng.normal(size=n)
    return [mean + 0.3 * user + 0.1 * rng.normal(size=n) for mean in (0.3, 0.2, 0.4)]


def test_advantage_interval_covers_the_advantage_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    intervals = [advantage_interval(*three_models(rng, 150), seed=trial) for trial in range(300)]
    covered = np.mean([low <= 0.5 <= high for low, high in intervals])
    assert covered == pytest.approx(0.94, abs=4 * math.sqrt(0.06 * 0.94 / 300))


def test_advantage_interval_redraws_the_same_users_for_all_three() -> None:
    surrogate, floor, target = three_models(np.random.default_rng(5), 100)
    assert advantage_interval(target, floor, target) == (1, 1)
    assert advantage_interval(floor, floor, target) == (0, 0)
    low, high = advantage_interval(surrogate, floor, target)
    assert low < access_advantage(surrogate.mean(), floor.mean(), target.mean()) < high


def test_advantage_interval_is_unbounded_where_the_target_may_be_no_better_than_the_floor() -> None:
    surrogate, floor, target = three_models(np.random.default_rng(6), 100)
    assert advantage_interval(surrogate, target, floor) == (-math.inf, math.inf)
    assert advantage_interval(surrogate, target, target) == (-math.inf, math.inf)
    noisy = target + np.random.default_rng(7).normal(scale=2, size=100)
    assert advantage_interval(surrogate, floor, noisy) == (-math.inf, math.inf)


def gains(rng: np.random.Generator, n: int) -> list[npt.NDArray[np.float64]]:
    """Per-user gains before and after, some of them 0, whose means are 1 and 0.8."""
    before = rng.exponential(size=n) * (rng.random(n) < 0.5) * 2
    return [before, before * rng.uniform(0.6, 1.0, n)]


def test_loss_interval_covers_the_loss_as_often_as_it_says() -> None:
    rng = np.random.default_rng(10)
    intervals = [loss_interval(*gains(rng, 150), seed=trial, n_resamples=500) for trial in range(300)]
    covered = np.mean([low <= 0.2 <= high for low, high in intervals])
    assert covered == pytest.approx(0.94, abs=4 * math.sqrt(0.06 * 0.94 / 300))


def test_loss_interval_redraws_the_same_users_before_and_after() -> None:
    before, after = gains(np.random.default_rng(11), 100)
    assert loss_interval(before, 0.75 * before) == pytest.approx((0.25, 0.25))
    assert loss_interval(before, 2 * before) == pytest.approx((-1, -1))
    low, high = loss_interval(before, after)
    assert low < 1 - after.mean() / before.mean() < high
    apart = loss_interval(before, after[::-1].copy())
    assert apart.high - apart.low > 3 * (high - low)


def test_draws_of_users_who_had_nothing_are_left_out_of_a_loss_interval() -> None:
    before = np.array([0.0, 1.0, 0.0])  # 8 of 27 draws
    assert loss_interval(before, before / 2) == (0.5, 0.5)


@pytest.mark.parametrize(("before", "said"), [([1.0], "two or more users"), ([0.0, 0.0], "needs plain gains above 0")])
def test_loss_interval_needs_two_users_and_something_to_lose(before: list[float], said: str) -> None:
    with pytest.raises(GroError, match=said):
        loss_interval(np.array(before), np.array(before))


@given(st.integers(0, 1000))
def test_one_thief_is_the_worst_case_himself(seed: int) -> None:
    surrogate, floor, target = three_models(np.random.default_rng(seed), 60)
    each, worst = advantage_intervals([surrogate], [floor], target, seed=seed, n_resamples=200)
    assert each == [worst] == [advantage_interval(surrogate, floor, target, seed=seed, n_resamples=200)]


@given(st.integers(0, 1000), st.integers(2, 5))
def test_the_worst_case_is_no_less_than_any_thief_of_it(seed: int, thieves: int) -> None:
    rng = np.random.default_rng(seed)
    floor, target = rng.random(50), 2 + rng.random(50)
    surrogates, floors = [3 * rng.random(50) for _ in range(thieves)], [floor * rng.random() for _ in range(thieves)]
    each, worst = advantage_intervals(surrogates, floors, target, n_resamples=100)
    assert each == [advantage_interval(s, f, target, n_resamples=100) for s, f in zip(surrogates, floors, strict=True)]
    for interval in each:
        assert worst.low >= interval.low
        assert worst.high >= interval.high
    order = rng.permutation(thieves)
    shuffled = advantage_intervals([surrogates[i] for i in order], [floors[i] for i in order], target, n_resamples=100)
    assert shuffled == ([each[i] for i in order], worst)


def test_the_worst_of_many_equal_thieves_is_above_the_advantage_that_each_has() -> None:
    rng = np.random.default_rng(9)
    _, floor, target = three_models(rng, 100)
    noise = rng.normal(scale=0.3, size=(8, 100))
    surrogates = floor + 0.1 + noise - noise.mean(axis=1, keepdims=True)
    each, worst = advantage_intervals(list(surrogates), [floor] * 8, target)
    advantage = access_advantage(floor.mean() + 0.1, floor.mean(), target.mean())
    assert all(low < advantage < high for low, high in each)
    assert worst.low > advantage


def test_a_thief_without_bounds_leaves_the_worst_case_the_lower_one_of_the_others() -> None:
    surrogate, floor, target = three_models(np.random.default_rng(6), 100)
    each, worst = advantage_intervals([surrogate, surrogate], [floor, target], target)
    assert np.isfinite(each[0]).all()
    assert each[1] == (-math.inf, math.inf)
    assert worst == (each[0].low, math.inf)


def test_intervals_need_two_users() -> None:
    with pytest.raises(GroError, match=r"same two or more users throughout; there are \[1\]"):
        mean_interval(np.array([0.5]))
    with pytest.raises(GroError, match=r"there are \[2, 3\]"):
        advantage_interval(np.zeros(3), np.zeros(2), np.ones(3))


def test_memory_of_an_interval_does_not_grow_with_the_resamples() -> None:
    values = np.random.default_rng(8).random(200_000)
    tracemalloc.start()
    mean_interval(values, n_resamples=40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 2**20  # all resamples at once: 128 MB
