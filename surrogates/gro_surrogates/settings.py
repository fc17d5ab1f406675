"""Settings of a thief."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from gro.config import Architecture, ModelSettings, PositiveFloat, PositiveInt, Probability, Settings

Sign: TypeAlias = Literal["canned", "missing", "steady"]
"""By which one who backtracks knows a list that is no answer; see gro_surrogates.backtracking."""
REPLAYS: Final = ("replay", "replay-fitted", "splice")
"""Ways of asking that need real histories."""


class QuerySettings(Settings):
    """How a thief asks: thieves of the same lines share what was answered."""

    queries: Literal[
        "autoregressive",
        "random",
        "rank-biased",
        "coverage",
        "agent",
        "mimic",
        "mix",
        "replay",
        "replay-fitted",
        "splice",
    ] = "autoregressive"
    """How histories start and grow; see gro_surrogates.strategies. The replays and splice need real histories."""
    known: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the users whose real training histories the thief holds; 0 is a data-free thief."""
    rank_exponent: Annotated[float, Field(ge=0)] = 1.0
    """How steeply the rank-biased thief's choice falls with the place in the list."""
    repeats: PositiveInt = 1
    """Calls with the same history, whose lists are fused by Borda count."""
    neighbours: Annotated[int, Field(ge=0)] = 0
    """Calls with the history less one item, fused with those."""
    sequence_length: PositiveInt | None = None
    """Calls per history; unset is ``max_length``."""
    backtrack: Annotated[int, Field(ge=0)] = 0
    """Times that the last item of a history is taken back and another one tried, where the list is no answer to it;
    where none helps the list is left out. See gro_surrogates.backtracking."""
    sign: Sign = "canned"
    """By which one who backtracks knows such a list: many get it; the item that was asked last is missing in it; or it
    is like the one before, and no list of that history was otherwise."""
    beginner: PositiveInt = 10
    """Items of the longest history after which such a list is as good as any, for one who backtracks."""

    @model_validator(mode="after")
    def _looks_for_what_it_takes_back(self) -> Self:
        if not self.backtrack and self.sign != "canned":
            raise ValueError(f"sign = '{self.sign}' needs backtrack above 0, the times that an item is taken back")
        return self

    @property
    def price(self) -> int:
        """Calls for one list."""
        return self.repeats + self.neighbours


class ThiefSettings(QuerySettings, ModelSettings):
    """A thief's card: how it asks, what it trains and how."""

    stop_gain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Buy in rounds, each as large as all before it, and stop after one that raised the agreement with lists held back
    by less than this; 0 spends the budget at once."""
    decoys: PositiveFloat | None = None
    """Leave out items that are exposed this many robust standard deviations above their prior; unset keeps all."""
    pretrain: bool = False
    """Begin with the model that the real histories teach."""
    popularity: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the cross entropy to the popularity in the real histories that every step adds."""
    invert: bool = False
    """Train shadow targets with and without the defence, learn from them to turn defended lists into clean ones, and
    learn from the lists so cleaned; where the target has no defence the lists stay as they are."""
    clones: tuple[Architecture, ...] = ()
    """Architectures of several clones whose rankings are fused; unset trains one of ``model``."""
    repair: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the next-item loss on real histories that every step adds to that of the lists."""
    loss: Literal["listwise", "ranking", "trimmed", "set", "discounted", "bpr"] = "listwise"
    """Plackett-Luce over the catalogue, the paper's pairwise hinge, or one of gro_surrogates.losses."""
    truncate: PositiveInt | None = None
    """Learn from the first items of each list only; unset uses the whole exposed list."""
    dropout: Probability = 0.1
    """Of the clones; those that learn from real histories alone have the models' own default."""
    epochs: PositiveInt = 10
    patience: Annotated[int, Field(ge=0)] = 0
    batch_size: PositiveInt = 16
    positions: PositiveInt = 50
    """Prefixes of each history that one step learns from."""
    learning_rate: PositiveFloat = 5e-3
    schedule: Literal["constant", "linear"] = "linear"
    """What becomes of the learning rate: linear rises to it, then falls to 0 at the end of the last epoch."""
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the training in which a linear schedule rises: lists bent by a defence make a fast start fail."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: PositiveFloat = 5.0
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the recorded histories kept back to choose the checkpoint."""

    @property
    def knowledge(self) -> Literal["data-free", "data-limited", "adaptive"]:
        """The threat model: adaptive once it does anything that only pays against a defence."""
        doubts_the_order = self.loss in {"set", "trimmed"} or self.truncate
        undoes = self.decoys or self.invert or self.backtrack
        if self.price > 1 or undoes or self.clones or doubts_the_order:
            return "adaptive"
        return "data-limited" if self.known else "data-free"

    @model_validator(mode="after")
    def _uses_what_it_holds(self) -> Self:
        uses = {
            f"queries = '{self.queries}'": self.queries in REPLAYS,
            "pretrain": self.pretrain,
            "repair": self.repair > 0,
            "popularity": self.popularity > 0,
        }
        if not self.known and (wanting := [use for use, wanted in uses.items() if wanted]):
            raise ValueError(f"{' and '.join(wanting)} needs known above 0, the share of real histories that it holds")
        return self

    @model_validator(mode="after")
    def _reads_what_it_asks(self) -> Self:
        """Where ``max_length`` is unset it is not known yet: the target's is taken when there is one."""
        length = self.sequence_length or 1
        if "max_length" in self.model_fields_set and length > self.max_length:
            raise ValueError(
                f"sequence_length is {length}, but a history of more than max_length = {self.max_length} items is not "
                f"read whole; give at most {self.max_length}"
            )
        return self
