from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gro.errors import DataError
from gro.ownership.calibration import (
    DRAWS,
    OTHERS,
    TOGETHER,
    Calibration,
    conformal,
    joint,
    proportion,
    uniformity,
    weigh,
)
from gro.ownership.promotion import Promotion
from gro.ownership.suspect import in_hand
from gro.ownership.triggers import Triggers
from tests.ownership.doubles import NEVER, Finds, require_exact, rough

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30)


@given(VALUES)
def test_the_p_values_of_models_that_are_alike_are_never_too_small(values: list[float]) -> None:
    p = [conformal(value, values[:place] + values[place + 1 :]) for place, value in enumerate(values)]
    for level in np.arange(1, len(values) + 1) / len(values):
        assert np.mean(np.array(p) <= level + 1e-12) <= level + 1e-12


@given(VALUES, st.floats(-1e3, 1e3))
def test_one_stratum_is_plain_conformal(values: list[float], statistic: float) -> None:
    assert Calibration({"seed": values}).p_value(statistic) == conformal(statistic, values)


@given(VALUES, st.floats(-1e3, 1e3), st.floats(0, 1))
def test_a_lot_breaks_ties_between_all_for_and_all_against_the_claim(
    values: list[float], statistic: float, lot: float
) -> None:
    null = Calibration({"seed": [*values, statistic]})
    above, alike = (
        sum(test(value, statistic) for value in [*values, statistic]) for test in (float.__gt__, float.__eq__)
    )
    assert null.p_value(statistic, 0) == above / (len(values) + 2)
    assert null.p_value(statistic, 1) == null.p_value(statistic) == (above + alike + 1) / (len(values) + 2)
    assert null.p_value(statistic, 0) <= null.p_value(statistic, lot) <= null.p_value(statistic)


@given(st.integers(0, 1 << 32), st.integers(1, 4))
@settings(max_examples=20)
def test_p_values_of_statistics_with_many_ties_are_uniform_once_a_lot_breaks_them(seed: int, n_values: int) -> None:
    """Unbroken, they are never too small."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n_values, size=(400, 30)).astype(float)
    nulls = [(row[0], Calibration({"seed": row[1:].tolist()})) for row in drawn]
    smooth = [null.p_value(statistic, rng.random()) for statistic, null in nulls]
    assert stats.kstest(smooth, "uniform").pvalue > NEVER
    plain = np.array([null.p_value(statistic) for statistic, null in nulls])
    for level in (0.1, 0.3, 0.6):
        assert stats.binom.sf((plain <= level).sum() - 1, len(plain), level) > NEVER


def test_every_innocent_counts_against_a_claim_and_only_the_nearest_for_it() -> None:
    null = Calibration({"seed": [0.5, 0.6, 0.7], "users": [0.1, 0.2, 0.9, 0.1]})
    assert null.nearest == "seed"
    assert null.least == 1 / 4
    assert null.p_value(0.8) == 2 / 4
    assert null.p_value(0.95) == null.least
    assert null.p_value(0.0) == 1


def test_a_handful_of_innocents_is_not_the_nearest_stratum() -> None:
    assert Calibration({"seed": [0.5, 0.6, 0.7, 0.4, 0.3], "users": [0.9, 0.8]}).nearest == "seed"
    assert Calibration({"seed": [0.5, 0.6, 0.7, 0.4, 0.3], "users": [0.9, 0.8, 0.7]}).nearest == "users"


def test_the_effect_is_in_deviations_of_the_nearest_stratum() -> None:
    null = Calibration({"seed": [1.0, 2.0, 3.0], "users": [0.0]})
    assert null.effect(4.0) == pytest.approx(2.0)
    assert Calibration({"seed": [1.0]}).effect(4.0) is None


@pytest.mark.parametrize("nulls", [{}, {"seed": []}, {"seed": [0.1, float("nan")]}])
def test_nothing_is_calibrated_by_nothing(nulls: dict[str, list[float]]) -> None:
    with pytest.raises(DataError):
        Calibration(nulls)


def test_a_joint_statistic_treats_the_suspect_as_any_other() -> None:
    rows = np.random.default_rng(0).normal(size=(9, 3))
    first, null = joint(rows[0].tolist(), {"seed": rows[1:5], "users": rows[5:]})
    second, other = joint(rows[1].tolist(), {"seed": rows[[0, 2, 3, 4]], "users": rows[5:]})
    assert first == pytest.approx(other.nulls["seed"][0])
    assert second == pytest.approx(null.nulls["seed"][0])
    assert null.nulls["users"] == pytest.approx(other.nulls["users"])


def test_the_same_test_twice_is_worth_no_more_than_once() -> None:
    rows = np.random.default_rng(1).normal(size=(40, 1))
    once, null = joint([1.5], {"seed": rows})
    twice, both = joint([1.5, 1.5], {"seed": np.hstack([rows, rows])})
    assert null.p_value(once) == both.p_value(twice)


def fisher(p_values: Sequence[float]) -> float:
    """The p-value of independent tests together, where p-values are uniform."""
    return float(stats.chi2.sf(-2 * np.log(p_values).sum(), 2 * len(p_values)))


@given(st.integers(0, 1 << 32), st.integers(2, 4))
@settings(max_examples=20)
def test_a_joint_p_value_is_fishers_where_tests_are_independent(seed: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    rows, statistics = rng.normal(size=(9999, m)), rng.normal(1, 1, m).tolist()
    statistic, null = joint(statistics, {OTHERS: rows})
    wanted = fisher([conformal(value, column.tolist()) for value, column in zip(statistics, rows.T, strict=True)])
    assert null.p_value(statistic) == pytest.approx(wanted, rel=0.2, abs=0.003)


@given(st.integers(0, 1 << 32), st.permutations([0, 1, 2]))
@settings(max_examples=20)
def test_a_joint_p_value_does_not_depend_on_the_order_or_the_scale_of_the_tests(seed: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    everybody = rng.integers(6, size=(40, 3)).astype(float)
    other = np.column_stack([np.exp(everybody[:, 0]), 5 * everybody[:, 1] - 7, everybody[:, 2] ** 3])[:, order]
    p_values = []
    for first, *rest in (everybody, other):  # a last bit may break a tie
        statistic, null = joint(first.tolist(), {OTHERS: np.array(rest)})
        p_values.append(null.p_value(statistic - 1e-9))
    assert p_values[0] == p_values[1]


def test_several_marks_are_put_together_and_one_is_not() -> None:
    suspect = in_hand(rough(0, 10), k=5)
    assert weigh(suspect, []) == {}
    assert list(weigh(suspect, [Finds(1.0)])) == ["finds"]
    found = weigh(suspect, [Finds(3.0), Finds(0.0, "b")])
    assert list(found) == ["finds", "b", TOGETHER]
    for _, null in found.values():
        assert list(null.nulls) == [OTHERS]
        assert len(null.all) == DRAWS
        assert null.least == 1 / (DRAWS + 1)


@pytest.mark.parametrize("washed", [[-9.0], [-9.0, -9.0]])
def test_a_mark_that_was_washed_off_does_not_hide_one_that_was_not(washed: list[float]) -> None:
    """Of three marks, however little two of them read."""
    marks = [Finds(9.0), *(Finds(value, f"washed{number}") for number, value in enumerate(washed))]
    for order in (marks, marks[::-1]):
        found = weigh(in_hand(rough(0, 10), k=5), order)
        p_values = {name: null.p_value(statistic) for name, (statistic, null) in found.items()}
        assert p_values["finds"] == 1e-4
        assert all(p_values[f"washed{number}"] == 1 for number in range(len(washed)))
        assert p_values[TOGETHER] == pytest.approx(fisher([1e-4, *(1 for _ in washed)]), rel=0.5)
        assert p_values[TOGETHER] <= 0.01


def test_marks_that_are_weak_alone_are_clear_together() -> None:
    found = weigh(in_hand(rough(0, 10), k=5), [Finds(2.0), Finds(2.0, "b"), Finds(2.0, "c")])
    p_values = {name: null.p_value(statistic) for name, (statistic, null) in found.items()}
    assert min(p_values[name] for name in ("finds", "b", "c")) > 0.01
    assert p_values[TOGETHER] < 0.002


@given(st.integers(1, 1 << 31), st.sampled_from([0.0, 1.0]))
@settings(max_examples=4)
def test_whatever_is_listed_joint_p_values_over_secrets_are_exact(seed: int, love: float) -> None:
    """Of rings and a promotion whose items and probes overlap, read from the same lists."""
    n_items = 20
    probes = torch.arange(1, n_items + 1)[:, None]
    lists = rough(0, n_items).scores(probes).topk(5, dim=1).indices + 1
    leaning = Promotion(b"", n_items, 1, probes, torch.zeros(n_items, dtype=torch.int64), lists)
    rings = Triggers(torch.arange(1, 9).view(2, 4))
    require_exact(rough(seed, n_items, range(1, 9), love), rings, leaning, seed=seed)


def test_uniformity_tells_even_p_values_from_small_ones() -> None:
    even = ((np.arange(200) + 0.5) / 200).tolist()
    assert uniformity(even)["p_value"] > 0.9
    small = uniformity([p * p for p in even])
    assert small["p_value"] < 1e-6
    assert small["below"] > 0.2
    assert uniformity([p**0.5 for p in even])["below"] < 0.01


def test_the_interval_of_no_success_is_the_exact_one() -> None:
    found = proportion(0, 100)
    assert found["interval"] == pytest.approx([0, 1 - 0.025 ** (1 / 100)])
