"""Settings of a thief."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gro.config import ModelSettings, PositiveFloat, PositiveInt


class ThiefSettings(ModelSettings):
    """A thief's card: how it asks, what it trains and how."""

    queries: Literal[
        "autoregressive", "random", "rank-biased", "coverage", "agent", "mix", "replay", "replay-fitted"
    ] = "autoregressive"
    """How histories start and grow; see gro_surrogates.strategies. The replays need real histories."""
    known: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the users whose real training histories the thief holds; 0 is a data-free thief."""
    rank_exponent: Annotated[float, Field(ge=0)] = 1.0
    """How steeply the rank-biased thief's choice falls with the place in the list."""
    repeats: PositiveInt = 1
    """Calls with the same history, whose lists are fused by Borda count."""
    neighbours: Annotated[int, Field(ge=0)] = 0
    """Calls with the history less one item, fused with those."""
    decoys: PositiveFloat | None = None
    """Leave out items that are exposed this many robust standard deviations above their prior; unset keeps all."""
    pretrain: bool = False
    """Begin with the model that the real histories teach."""
    repair: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the next-item loss on real histories that every step adds to that of the lists."""
    loss: Literal["listwise", "ranking", "trimmed", "set", "discounted", "bpr"] = "listwise"
    """Plackett-Luce over the catalogue, the paper's pairwise hinge, or one of gro_surrogates.losses."""
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

    @property
    def knowledge(self) -> Literal["data-free", "data-limited", "adaptive"]:
        """The threat model."""
        if self.repeats > 1 or self.neighbours or self.decoys:
            return "adaptive"
        return "data-limited" if self.known else "data-free"

    @model_validator(mode="after")
    def _uses_what_it_holds(self) -> Self:
        uses = {
            f"queries = '{self.queries}'": self.queries.startswith("replay"),
            "pretrain": self.pretrain,
            "repair": self.repair > 0,
        }
        if not self.known and (wanting := [use for use, wanted in uses.items() if wanted]):
            raise ValueError(f"{' and '.join(wanting)} needs known above 0, the share of real histories that it holds")
        return self
