from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import DataError
from gro.ownership.calibration import Calibration, conformal, cross_fitted, joint, merged, proportion, uniformity

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30)


@given(VALUES)
def test_the_p_values_of_models_that_are_alike_are_never_too_small(values: list[float]) -> None:
    p = [conformal(value, values[:place] + values[place + 1 :]) for place, value in enumerate(values)]
    for level in np.arange(1, len(values) + 1) / len(values):
        assert np.mean(np.array(p) <= level + 1e-12) <= level + 1e-12


@given(VALUES, st.floats(-1e3, 1e3))
def test_one_stratum_is_plain_conformal(values: list[float], statistic: float) -> None:
    assert Calibration({"seed": values}).p_value(statistic) == conformal(statistic, values)


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


def test_a_mark_that_was_washed_off_does_not_hide_one_that_was_not() -> None:
    rows = np.random.default_rng(2).normal(size=(30, 2))
    for statistics in ([9.0, -9.0], [9.0, 9.0]):
        statistic, null = joint(statistics, {"seed": rows})
        assert null.p_value(statistic) == null.least
    statistic, null = joint([9.0, 1.0], {"seed": np.hstack([rows[:, :1], np.ones((30, 1))])})
    assert null.p_value(statistic) == null.least


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=6))
def test_merged_p_values_are_bonferronis(p_values: list[float]) -> None:
    assert merged(p_values) == min(1, len(p_values) * min(p_values))


def test_uniformity_tells_even_p_values_from_small_ones() -> None:
    even = ((np.arange(200) + 0.5) / 200).tolist()
    assert uniformity(even)["p_value"] > 0.9
    small = uniformity([p * p for p in even])
    assert small["p_value"] < 1e-6
    assert small["below"] > 0.2
    assert uniformity([p**0.5 for p in even])["below"] < 0.01


def test_cross_fitted_p_values_come_from_the_other_folds() -> None:
    nulls = {"seed": [*np.linspace(0, 1, 19), 5.0], "users": [-1.0, -2.0, 0.5]}
    found = cross_fitted(nulls, 5, seed=0)
    assert found["seed"][-1] == 1 / (16 + 1)  # above all, calibrated by the 16 of four folds
    assert all(p > 1 / 17 for p in found["seed"][:-1])
    assert found["users"][0] == 1
    assert {name: len(each) for name, each in found.items()} == {"seed": 20, "users": 3}


def test_the_interval_of_no_success_is_the_exact_one() -> None:
    found = proportion(0, 100)
    assert found["interval"] == pytest.approx([0, 1 - 0.025 ** (1 / 100)])
