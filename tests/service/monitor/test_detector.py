from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gro.service.monitor.detector import FIRST, compared, due, fewest, tolerance


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=400),
    st.sampled_from([0.01, 0.05, 0.2]),
    st.sampled_from([0.5, 0.9, 0.99]),
)
def test_the_threshold_is_the_lowest_score_that_keeps_the_promise(
    scores: list[float], false_alarms: float, confidence: float
) -> None:
    threshold = tolerance(scores, false_alarms, confidence)
    n, above = len(scores), sum(score > threshold for score in scores)
    assert stats.binom.cdf(above, n, false_alarms) <= 1 - confidence or above == 0
    if math.isinf(threshold):
        assert n < fewest(false_alarms, confidence)
    else:
        assert n >= fewest(false_alarms, confidence)
        at_or_above = sum(score >= threshold for score in scores)
        assert stats.binom.cdf(at_or_above, n, false_alarms) > 1 - confidence


def test_the_promise_holds_over_samples_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    kept = [float(stats.norm.sf(tolerance(list(rng.standard_normal(300)), 0.05, 0.9))) <= 0.05 for _ in range(400)]
    assert sum(kept) / 400 > 0.87


def test_accounts_are_judged_more_rarely_as_they_age_but_never_stop_being_judged() -> None:
    judged = [calls for calls in range(1, 10_000) if due(calls)]
    assert judged[: 32 - FIRST] == list(range(FIRST, 32))
    assert all(b - a <= max(1, b / 8) for a, b in pairwise(judged))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_shares_are_compared_on_a_scale_of_even_noise(share: float) -> None:
    n = 400
    draws = np.random.default_rng(1).binomial(n, share, 4000) / n
    values = np.zeros((len(draws), 10))
    values[:, 0] = draws
    assert compared(values)[:, 0].std() == pytest.approx(0.5 / math.sqrt(n), rel=0.1)


@given(st.lists(st.floats(0, 100), min_size=250, max_size=300))
def test_more_false_alarms_or_less_confidence_never_raise_the_threshold(scores: list[float]) -> None:
    by_rate = [tolerance(scores, rate, 0.9) for rate in (0.01, 0.05, 0.2)]
    by_confidence = [tolerance(scores, 0.05, confidence) for confidence in (0.99, 0.9, 0.5)]
    assert by_rate == sorted(by_rate, reverse=True)
    assert by_confidence == sorted(by_confidence, reverse=True)
