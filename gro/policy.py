"""Policies: what one account may ask for, as a file that the guard of a service and its simulation share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gro import cards
from gro.config import PositiveInt, Probability, Settings, read_tables

MINUTES = 24 * 60
"""Minutes of a day."""
SHIPPED = Path(__file__).resolve().parent / "policies"
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Limits(Settings):
    """What a guard lets one account have; a limit that is not given does not bind."""

    calls_per_day: PositiveInt
    """Most calls in any 24 hours."""
    calls_per_minute: PositiveInt | None = None
    """Most calls in any minute."""
    list_entries_per_day: PositiveInt | None = None
    """Most list entries in any 24 hours: calls times exposed k."""

    def daily_calls(self, k: int) -> int:
        """Most calls of one account in a day whose lists have ``k`` entries; 0 where one list is already too much."""
        by_minute = self.calls_per_day if self.calls_per_minute is None else self.calls_per_minute * MINUTES
        by_entries = self.calls_per_day if self.list_entries_per_day is None else self.list_entries_per_day // k
        return min(self.calls_per_day, by_minute, by_entries)


class Assumptions(Settings):
    """Whom the simulation plays: a thief who uses up what every account may have, evenly over each day."""

    accounts: Annotated[int, Field(gt=0, le=10_000)] = 10
    """Accounts that are used at a time."""
    days: Annotated[int, Field(gt=0, le=365)] = 30
    """How long the theft may last."""
    caught_per_day: Probability = 0.0
    """Probability that an account which used its whole day is caught, and blocked for good, at the end of that day."""
    new_accounts: bool = False
    """Whether a new account takes the place of one that was caught."""
    account_cost: Amount = 0.0
    """What an account costs the thief, in any currency."""
    call_cost: Amount = 0.0
    """What a call costs the thief, in the same currency."""


class Policy(Settings):
    """A policy file: ``[limits]``, which a guard enforces, and ``[thief]``, which the simulation alone reads."""

    limits: Limits
    thief: Assumptions = Assumptions()


def read_policy(name: str | Path) -> Policy:
    """Read a policy by the name of a shipped one or as the path of a TOML file.

    Raises:
        ConfigError: there is no such policy, or a line is unknown, missing or out of range.
    """
    return read_tables(Policy, cards.located(SHIPPED, "policy", "Policies", str(name)))
