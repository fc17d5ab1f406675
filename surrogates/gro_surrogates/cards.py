"""Thieves as cards: TOML files of ``surrogates/``, or of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gro import cards
from gro.config import read_toml
from gro_surrogates.settings import ThiefSettings


def thief_settings(card: str, overrides: Mapping[str, Any]) -> ThiefSettings:
    """Read a thief's card, by the name of a shipped one or as the path of a file; ``overrides`` win.

    Raises:
        ConfigError: there is no such card, or a setting is unknown or out of range.
    """
    if card.endswith(".toml"):
        path = Path(card)
        table = read_toml(path)
    else:
        table, path = cards.read("surrogates", card)
    return ThiefSettings.make({**table, **overrides}, source=str(path))
