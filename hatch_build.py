"""Ships the cards (the TOML files of three top-level folders) inside the wheel as ``gro/_cards``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Cards(BuildHookInterface[Any]):
    """Force-includes the cards alone: their folders also hold code and results."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the cards to a wheel; an editable install reads them in the checkout."""
        if version == "editable":
            return
        for kind in ("datasets", "surrogates", "surrogates/suites", "experiments"):
            for card in sorted(Path(self.root, kind).glob("*.toml")):
                build_data["force_include"][str(card)] = f"gro/_cards/{kind}/{card.name}"
