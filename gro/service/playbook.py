"""Playbooks: what the guard does to an account, and when, as a TOML file that can be read before it acts.

A rule that is met puts the account into a state for a time, counted from the last call that met it. The highest state
that a rule still holds is the account's: when its time is over the account falls back to the next one, and to normal
in the end. What cannot be meant is refused: a rule that changes nothing, a mild state that takes more than a harsh one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import total_ordering
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from gro import cards
from gro.config import PositiveInt, Settings, read_toml
from gro.errors import ConfigError, nearest

SHIPPED = Path(__file__).resolve().parent / "playbooks"
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@total_ordering
class State(Enum):
    """What is done to an account, mildest first; each is ordered by its harshness."""

    NORMAL = "normal"
    WATCH = "watch"
    """Nothing that the account can tell: it is listed and looked at."""
    THROTTLE = "throttle"
    """A share of its budgets."""
    CHALLENGE = "challenge"
    """No lists until it has passed what the application asks of it."""
    DECOY = "decoy"
    """Lists that teach a thief little."""
    SUSPEND = "suspend"
    """No lists."""

    def __lt__(self, other: State) -> bool:
        order = list(State)
        return order.index(self) < order.index(other)

    def __str__(self) -> str:
        return self.value


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value  # a number from Python; TOML's are refused by read_playbook
    match = re.fullmatch(r"(\d{1,9})([smhd])", value)
    if not match:
        raise ValueError("it must be a number and a unit, such as '30s', '10m', '1h' or '7d'")
    return int(match[1]) * UNITS[match[2]]


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Score = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, lt=1)]


class Condition(Settings):
    """When a rule is met: when all that is given holds."""

    score: Score | None = None
    """The score of the calls is at least this; 1 is the threshold of an alarm."""
    for_calls: PositiveInt = 1
    """... of so many calls in a row."""
    alarm: bool = False
    """The monitor raises an alarm."""
    refusals_per_hour: PositiveInt | None = None
    """So many calls were refused within an hour, by limits or otherwise; counted in steps of 5 minutes."""

    @model_validator(mode="after")
    def _meant(self) -> Self:
        if self.score is None and self.for_calls > 1:
            raise ValueError("'for_calls' counts calls by their score; give 'score' too")
        if self.score is None and self.refusals_per_hour is None and not self.alarm:
            raise ValueError("nothing is asked; give 'score', 'alarm = true' or 'refusals_per_hour'")
        return self

    def implies(self, other: Condition) -> bool:
        """Whether the other is met whenever this one is."""
        calls = self.for_calls >= other.for_calls
        return (
            (other.score is None or (self.score is not None and self.score >= other.score and calls))
            and self.alarm >= other.alarm
            and (self.refusals_per_hour or 0) >= (other.refusals_per_hour or 0)
        )

    def __str__(self) -> str:
        run = f" for {self.for_calls} calls" if self.for_calls > 1 else ""
        parts = [] if self.score is None else [f"a score of {self.score:g}{run}"]
        parts += ["an alarm"] if self.alarm else []
        parts += [] if self.refusals_per_hour is None else [f"{self.refusals_per_hour} refusals in an hour"]
        return " and ".join(parts)


class Rule(Settings):
    """What happens when."""

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9 _-]{0,63}$")]
    """What logs call it; unset in a file, "rule 1" and so on."""
    when: Condition
    then: State
    """State the account is put in, unless it is in a higher one."""
    for_: Annotated[Duration | None, Field(alias="for")] = None
    """Time without the condition after which the rule lets go; only a suspension may leave that to an operator."""
    factor: Factor | None = None
    """Share of its budgets that a throttled account has."""
    hook: str | None = None
    """What the application registered to challenge an account."""

    @model_validator(mode="after")
    def _meant(self) -> Self:
        if self.then is State.NORMAL:
            raise ValueError("'then' is 'normal'; accounts return to it by themselves, when 'for' is over")
        if self.for_ is None and self.then is not State.SUSPEND:
            raise ValueError(
                f"'for' is required: only a suspension may last until an operator ends it, not {self.then}"
            )
        if (self.factor is None) is (self.then is State.THROTTLE):
            raise ValueError("'factor' is required with then = \"throttle\", and has no meaning with another state")
        if (self.hook is None) is (self.then is State.CHALLENGE):
            raise ValueError("'hook' is required with then = \"challenge\", and has no meaning with another state")
        return self

    @property
    def lasts(self) -> float:
        """Seconds after which the rule lets go; infinite where it does not."""
        return math.inf if self.for_ is None else self.for_


class Playbook(Settings):
    """Rules, and whether they act."""

    dry_run: bool = False
    """Log what would be done and do nothing."""
    rule: Annotated[tuple[Rule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _meant(self) -> Self:
        names = [rule.name for rule in self.rule]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"'{min(twice)}' names several rules; name each once")
        for rule, other in permutations(self.rule, 2):
            _contradicts(rule, other)
        return self

    def check(self, hooks: Iterable[str]) -> None:
        """Raise :class:`ConfigError` where a rule names a hook that the application did not register."""
        known = sorted(hooks)
        for rule in self.rule:
            if rule.hook is not None and rule.hook not in known:
                listed = ", ".join(known) or "none"
                hint = nearest(rule.hook, known)
                raise ConfigError(f"{rule.name}: no hook '{rule.hook}' is registered.{hint} Registered: {listed}")


def _contradicts(rule: Rule, other: Rule) -> None:
    """Refuse a rule that the other one, which is met whenever it is, leaves nothing to do."""
    if not rule.when.implies(other.when):
        return
    if rule.then < other.then and not other.when.implies(rule.when):
        raise ValueError(
            f"{rule.name} asks more for {rule.then} than {other.name} for {other.then}; ask more of the latter"
        )
    milder = rule.then < other.then or (rule.then is other.then and (rule.factor or 1) >= (other.factor or 1))
    if milder and rule.lasts <= other.lasts:
        raise ValueError(f"{rule.name} changes nothing: whenever it is met, {other.name} does as much for as long")


def read_playbook(name: str | Path) -> Playbook:
    """Read a playbook by the name of a shipped one or as the path of a TOML file.

    Raises:
        ConfigError: there is no such playbook, or a line is unknown, missing, out of range or contradicts another.
    """
    path = cards.located(SHIPPED, "playbook", "Playbooks", str(name))
    table = read_toml(path)
    rules = table.get("rule", [])
    if not isinstance(rules, Sequence) or not all(isinstance(rule, dict) for rule in rules):
        raise ConfigError(f"{path}: 'rule' is {rules!r}; it must be tables, [[rule]]")
    if rules:
        table["rule"] = tuple(_rule(rule, number, path) for number, rule in enumerate(rules, 1))
    return Playbook.make(table, str(path))


def _rule(values: dict[str, Any], number: int, path: Path) -> Rule:
    values = {"name": f"rule {number}", **values}
    where = f"{path}: {values['name']}"
    for_, when = values.get("for"), values.get("when")
    if for_ is not None and not isinstance(for_, str):
        raise ConfigError(f"{where}: 'for' is {for_!r}; it must be a number and a unit, such as '1h'")
    if isinstance(when, dict):
        values["when"] = Condition.make(when, f"{where}, when")
    return Rule.make(values, where)
