"""What a policy yields: closed forms against thefts that are drawn day by day."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gro.audit.budget import CONFIDENCE, Budget
from gro.metrics import FloatArray
from gro.policy import Assumptions

DRAWS, SIGMAS = 4_000, 5

RISKS = st.just(0.0) | st.floats(1e-6, 0.95)
THIEVES = st.builds(
    Assumptions,
    accounts=st.integers(1, 8),
    days=st.integers(1, 15),
    caught_per_day=RISKS,
    new_accounts=st.booleans(),
    account_cost=st.floats(0, 10),
    call_cost=st.floats(0, 1),
)
BUDGETS = st.builds(Budget, st.integers(1, 50), THIEVES)


class Drawn(NamedTuple):
    """Drawn thefts, each ``[DRAWS]``."""

    calls: FloatArray
    caught: FloatArray
    cost: FloatArray


def draw(budget: Budget) -> Drawn:
    thief, generator = budget.thief, np.random.default_rng(0)
    alive = np.full(DRAWS, thief.accounts)
    calls, caught, bought = np.zeros(DRAWS), np.zeros(DRAWS), np.full(DRAWS, thief.accounts)
    for day in range(thief.days):
        calls += budget.daily * alive
        today = generator.binomial(alive, thief.caught_per_day)
        caught += today
        if not thief.new_accounts:
            alive = alive - today
        elif day < thief.days - 1:
            bought = bought + today
    return Drawn(calls, caught, thief.account_cost * bought + thief.call_cost * calls)


def agrees(expected: float, drawn: FloatArray, spread: float | None = None) -> None:
    error = SIGMAS * (drawn.std() if spread is None else spread) / math.sqrt(DRAWS)
    slack = 0.01 * max(1.0, abs(expected))
    assert abs(drawn.mean() - expected) <= error + slack


@given(BUDGETS)
@settings(max_examples=60)
def test_expectations_are_those_of_drawn_thefts(budget: Budget) -> None:
    drawn, days = draw(budget), budget.thief.days
    agrees(budget.calls(days), drawn.calls)
    agrees(budget.caught(days), drawn.caught)
    agrees(budget.cost(days), drawn.cost)


@given(BUDGETS, st.floats(0.05, 1))
@settings(max_examples=60)
def test_intervals_and_chances_are_those_of_drawn_thefts(budget: Budget, part: float) -> None:
    drawn, tail = draw(budget), (1 - CONFIDENCE) / 2
    error = SIGMAS * math.sqrt(tail * (1 - tail) / DRAWS)
    for interval, values in ((budget.calls_interval(), drawn.calls), (budget.cost_interval(), drawn.cost)):
        touch = 1e-9 * max(1.0, interval.high)
        for bound, at in ((interval.low, tail), (interval.high, 1 - tail)):
            assert (values <= bound + touch).mean() >= at - error
            assert (values < bound - touch).mean() <= at + error
    calls = math.ceil(part * budget.thief.accounts * budget.thief.days * budget.daily)
    agrees(budget.chance(calls), (drawn.calls >= calls).astype(float), spread=0.5)


@given(BUDGETS, st.floats(0, 15), st.floats(0, 15))
def test_more_days_never_give_fewer_calls_nor_cost_less(budget: Budget, first: float, second: float) -> None:
    fewer, more = sorted((first, second))
    assert budget.calls(fewer) <= budget.calls(more) * (1 + 1e-12)
    assert budget.cost(fewer) <= budget.cost(more) * (1 + 1e-12)
    assert budget.caught(fewer) <= budget.caught(more)


@given(BUDGETS, st.floats(0, 15), st.integers(1, 50), RISKS)
def test_a_stricter_policy_never_gives_more_calls(budget: Budget, days: float, daily: int, risk: float) -> None:
    stricter = Budget(min(daily, budget.daily), budget.thief)
    assert stricter.calls(days) <= budget.calls(days)
    riskier = max(risk, budget.thief.caught_per_day)
    watched = Budget(budget.daily, budget.thief.model_copy(update={"caught_per_day": riskier}))
    assert watched.calls(days) <= budget.calls(days) * (1 + 1e-9)
    calls = budget.daily * budget.thief.accounts
    assert watched.chance(calls) <= budget.chance(calls) + 1e-9


@given(BUDGETS, st.floats(0.01, 15))
def test_days_are_the_inverse_of_calls(budget: Budget, days: float) -> None:
    assume(budget.thief.new_accounts or (1 - budget.thief.caught_per_day) ** days > 1e-6)
    assert budget.days(budget.calls(days)) == pytest.approx(days, rel=1e-6)


@given(st.integers(1, 10**6), st.integers(1, 100), st.integers(1, 100), st.booleans())
@example(200, 10, 30, True)
def test_without_risk_everything_is_exact(daily: int, accounts: int, days: int, new_accounts: bool) -> None:
    budget = Budget(daily, Assumptions(accounts=accounts, days=days, new_accounts=new_accounts, account_cost=3.0))
    most = daily * accounts * days
    assert budget.calls(days) == most
    assert budget.calls_interval() == (most, most)
    assert budget.days(most) == days
    assert (budget.chance(most), budget.chance(most + 1)) == (1, 0)
    assert (budget.caught(days), budget.cost(days)) == (0, 3 * accounts)
    assert budget.cost_interval() == (3 * accounts, 3 * accounts)


def test_figures_of_a_theft_that_can_be_worked_out_by_hand() -> None:
    alone = Budget(100, Assumptions(accounts=2, days=3, caught_per_day=0.5, account_cost=10, call_cost=0.1))
    assert alone.calls(3) == pytest.approx(2 * 100 * (1 + 0.5 + 0.25))
    assert alone.calls(1.5) == pytest.approx(2 * 100 * (1 + 0.5 * 0.5))
    assert alone.days(250) == pytest.approx(1.5)
    assert alone.days(400) == math.inf
    assert alone.caught(2.9) == pytest.approx(2 * 0.75)
    assert alone.cost(1) == pytest.approx(2 * 10 + 200 * 0.1)
    assert alone.chance(600) == pytest.approx(0.25**2)
    assert alone.chance(601) == 0
    assert alone.calls_interval() == (200, 600)
    replaced = Budget(100, Assumptions(accounts=2, days=3, caught_per_day=0.5, account_cost=10, new_accounts=True))
    assert replaced.calls(3) == 600
    assert [replaced.cost(days) for days in (1, 1.01, 2, 3)] == [20, 30, 30, 40]
    assert replaced.caught(3) == 3
    assert replaced.cost_interval() == (20, 60)


def test_the_largest_thief_is_counted_in_seconds() -> None:
    budget = Budget(1, Assumptions(accounts=10_000, days=365, caught_per_day=0.01))
    low, high = budget.calls_interval()
    assert low < budget.calls(365) < high
    assert high - low < 0.05 * low
