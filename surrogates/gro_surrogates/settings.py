"""Settings of a thief."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gro.config import ModelSettings, PositiveFloat, PositiveInt


class ThiefSettings(ModelSettings):
    """A thief's card: how it asks, what it trains and how."""

    queries: Literal["autoregressive", "random"] = "autoregressive"
    """How a history grows: an item of the list just received, or any item of the catalogue."""
    loss: Literal["listwise", "ranking"] = "listwise"
    """Plackett-Luce over the catalogue, or the paper's pairwise hinge."""
    sequence_length: PositiveInt | None = None
    """Calls per history; unset is ``max_length``."""
    truncate: PositiveInt | None = None
    """Learn from the first items of each list only; unset uses the whole exposed list."""
    epochs: PositiveInt = 20
    patience: PositiveInt = 3
    batch_size: PositiveInt = 32
    positions: PositiveInt = 50
    """Prefixes of each history that one step learns from."""
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: PositiveFloat = 5.0
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the recorded histories kept back to choose the checkpoint."""
