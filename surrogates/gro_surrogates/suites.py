"""Suites as cards: which thieves a target has to face."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gro import cards
from gro.config import PositiveInt, Settings, read_toml
from gro.errors import ConfigError
from gro_surrogates.cards import thief_settings
from gro_surrogates.settings import ThiefSettings

Fraction = Annotated[float, Field(gt=0, lt=1)]


class SuiteCard(Settings):
    """One file of ``surrogates/suites/``."""

    include: tuple[str, ...] = ()
    """Suites whose thieves come first."""
    thieves: tuple[str | dict[str, Any], ...] = ()
    """Cards of thieves, by name or as files; a table names one as "card" and overrides lines of it."""
    calls: PositiveInt = 50_000
    """Budget of each thief."""
    curve: tuple[Fraction, ...] = ()
    """Parts of the budget at which the worst thief is played again."""


@dataclass(frozen=True)
class SuiteThief:
    """A thief of a suite: its card, what overrides the card's lines, and the settings that come of both."""

    card: str
    overrides: dict[str, Any]
    settings: ThiefSettings

    @property
    def name(self) -> str:
        """The card's name, with what is not as it says: ``autoregressive truncate=10``."""
        return " ".join([Path(self.card).stem, *(f"{key}={_word(value)}" for key, value in self.overrides.items())])


@dataclass(frozen=True)
class Suite:
    """Thieves in the order in which they are played."""

    name: str
    thieves: tuple[SuiteThief, ...]
    calls: int
    curve: tuple[float, ...]


def read_suite(name: str) -> Suite:
    """Read a suite by the name of a shipped card or as the path of a file, and every thief in it.

    Raises:
        ConfigError: there is no such suite or thief, or a line is unknown or out of range.
    """
    card, path = _read(name)
    unique: dict[str, SuiteThief] = {}
    for thief in _thieves(card, path, (path,)):
        if unique.setdefault(thief.name, thief) != thief:
            raise ConfigError(f"{path}: two thieves are called '{thief.name}'; rename the file of one")
    if not unique:
        raise ConfigError(f"{path}: a suite needs thieves")
    return Suite(path.stem, tuple(unique.values()), card.calls, card.curve)


def _read(name: str) -> tuple[SuiteCard, Path]:
    table, path = (
        (read_toml(Path(name)), Path(name)) if name.endswith(".toml") else cards.read("surrogates/suites", name)
    )
    return SuiteCard.make(table, str(path)), path


def _thieves(card: SuiteCard, path: Path, including: tuple[Path, ...]) -> Iterator[SuiteThief]:
    for name in card.include:
        included, where = _read(name)
        if where in including:
            raise ConfigError(f"{path}: includes '{name}', which includes it")
        yield from _thieves(included, where, (*including, where))
    for entry in card.thieves:
        yield suite_thief(entry, path)


def suite_thief(entry: str | dict[str, Any], path: Path) -> SuiteThief:
    """Read a thief of a suite, or of another card at ``path``: the name of a card, or a table with overrides.

    Raises:
        ConfigError: there is no such thief, or a line is unknown or out of range.
    """
    overrides = {} if isinstance(entry, str) else {key.replace("-", "_"): value for key, value in entry.items()}
    name = entry if isinstance(entry, str) else overrides.pop("card", None)
    if not isinstance(name, str):
        raise ConfigError(f'{path}: a thief needs a card: {{ card = "autoregressive", ... }}, not {entry}')
    try:
        return SuiteThief(name, overrides, thief_settings(name, overrides))
    except ConfigError as error:
        raise ConfigError(f"{path}: thief '{name}': {error}") from None


def _word(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
