"""What a policy yields to a thief: calls, the days and the money that they take, and the risk of being caught.

Every account makes its calls evenly over each day; at the end of a day on which it used them up it is caught with a
probability ``p``, independently of all others. Without new accounts, the days of one account are geometric, cut at the
end of the theft: they are ``(1 - (1 - p) ** n) / p`` in expectation after ``n`` days, calls are random and accounts
cost what they did at first. With new accounts it is the other way round: nothing is lost but money.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft, stats

from gro.metrics import FloatArray, Interval
from gro.policy import Assumptions

CONFIDENCE = 0.9
"""Of the intervals of calls and cost."""
ROUNDING = 1e-9
"""Days by which a sum of floats may miss the end of a day."""


@dataclass(frozen=True)
class Budget:
    """The budget of a thief under a policy; days may be fractions, and all figures are expectations unless said.

    Attributes:
        daily: calls of one account a day, at least 1; see :meth:`gro.policy.Limits.daily_calls`.
        thief: what is assumed of the thief.
    """

    daily: int
    thief: Assumptions

    def calls(self, days: float) -> float:
        """Calls that all accounts have made after ``days``."""
        whole = math.floor(days)
        if not self._shrinks:
            return self._full * days
        return self._full * (self._survived(whole) + (days - whole) * self._alive(whole))

    def days(self, calls: float) -> float:
        """Days until ``calls`` are made: the inverse of :meth:`calls`, infinite where they never are."""
        each = calls / self._full
        if not self._shrinks:
            return each
        risk = self.thief.caught_per_day
        if risk * each >= 1:
            return math.inf
        whole = math.floor(math.log1p(-risk * each) / math.log1p(-risk) + ROUNDING)
        return whole + max(0.0, each - self._survived(whole)) / self._alive(whole)

    def caught(self, days: float) -> float:
        """Accounts that are caught within ``days``."""
        if self.thief.new_accounts:
            return self.thief.accounts * self.thief.caught_per_day * math.floor(days)
        return self.thief.accounts * (1 - self._alive(math.floor(days)))

    def cost(self, days: float) -> float:
        """What calls and accounts cost until ``days``; who is caught at the very end needs no new account."""
        replaced = self._replaceable(days) * self.thief.caught_per_day
        return self.thief.account_cost * (self.thief.accounts + replaced) + self.thief.call_cost * self.calls(days)

    def calls_interval(self) -> Interval:
        """Calls when the theft is over: quantiles at both ends of ``CONFIDENCE``."""
        low, high = (self._calls_quantile(tail) for tail in _tails())
        return Interval(low, high)

    def cost_interval(self) -> Interval:
        """Cost when the theft is over: quantiles at both ends of ``CONFIDENCE``."""
        replaced = stats.binom(self._replaceable(self.thief.days), self.thief.caught_per_day)
        low, high = (
            self.thief.account_cost * (self.thief.accounts + float(replaced.ppf(tail)))
            + self.thief.call_cost * self._calls_quantile(tail)
            for tail in _tails()
        )
        return Interval(low, high)

    def chance(self, calls: int) -> float:
        """Probability that ``calls`` are made before the theft is over."""
        needed = math.ceil(calls / self.daily)
        if not self._shrinks or needed > self._most:
            return float(needed <= self._most)
        return 1 - float(self._lasting[needed - 1])

    @property
    def _full(self) -> int:
        """Calls of a day on which all accounts are there."""
        return self.thief.accounts * self.daily

    @property
    def _most(self) -> int:
        return self.thief.accounts * self.thief.days

    @property
    def _shrinks(self) -> bool:
        return self.thief.caught_per_day > 0 and not self.thief.new_accounts

    def _alive(self, days: int) -> float:
        return float((1 - self.thief.caught_per_day) ** days)

    def _survived(self, days: int) -> float:
        """Expected days of one account that is not replaced: the mean of a geometric number cut at ``days``."""
        risk = self.thief.caught_per_day
        return -math.expm1(days * math.log1p(-risk)) / risk

    def _replaceable(self, days: float) -> int:
        """Ends of a day, over all accounts, after which a caught one is replaced."""
        return self.thief.accounts * max(0, math.ceil(days) - 1) if self.thief.new_accounts else 0

    def _calls_quantile(self, tail: float) -> float:
        if not self._shrinks:
            return float(self.daily * self._most)
        return float(self.daily * int(np.searchsorted(self._lasting, tail)))

    @cached_property
    def _lasting(self) -> FloatArray:
        """Probability that all accounts together last at most so many days: ``[accounts * days + 1]``.

        The distribution of one account, convolved with itself as a power of its Fourier transform, then added up.
        """
        days, risk = self.thief.days, self.thief.caught_per_day
        one = np.zeros(self._most + 1)
        one[1 : days + 1] = risk * (1 - risk) ** np.arange(days)
        one[days] = self._alive(days - 1)
        size = fft.next_fast_len(len(one), real=True)
        together = fft.irfft(fft.rfft(one, size) ** self.thief.accounts, size)
        return np.asarray(np.minimum(np.maximum(together[: len(one)], 0.0).cumsum(), 1.0))


def _tails() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
