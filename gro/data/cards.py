"""Dataset cards: what is known about a dataset, measured from its file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gro import cards
from gro.config import DataSettings, PositiveInt, Settings
from gro.errors import ConfigError


class Counts(Settings):
    """Sizes after the card's filters."""

    users: PositiveInt
    items: PositiveInt
    interactions: PositiveInt


class Filters(Settings):
    """Filters that a dataset is used with unless the settings say otherwise."""

    user_inter_num_interval: str | None = None
    item_inter_num_interval: str | None = None
    val_interval: dict[str, str] = Field(default_factory=dict)
    rm_dup_inter: Literal["first", "last", "keep"] | None = None


class DatasetCard(Settings):
    """One file of ``datasets/``."""

    name: str
    title: str
    source: str
    """Address of the original data."""
    licence: str
    citation: str
    note: str
    """What was done to the original, in a sentence."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Checksum of the ``.inter`` file that the counts were measured on."""
    split: Literal["leave-one-out"]
    """The last item by time is the test target, the second-last the validation target."""
    suggested: dict[str, int | float | str] = Field(default_factory=dict)
    """Settings of training and protection that suit the dataset, used where the user gives none."""
    recbole_scales_times: bool = False
    """RecBole's own settings for this name scale times to 0..1 before rounding them to 32-bit floats."""
    counts: Counts
    filters: Filters = Filters()

    def complete(self, settings: DataSettings) -> DataSettings:
        """Return ``settings`` with the card's filter wherever they have none."""
        unset = {key: value for key, value in self.filters if value and not getattr(settings, key)}
        return settings.model_copy(update=unset)


def dataset_cards() -> dict[str, DatasetCard]:
    """Return every dataset card by name.

    Raises:
        ConfigError: a card is malformed; names the file and the keys.
    """
    return {name: _read(name) for name in cards.names("datasets")}


def dataset_card(name: str) -> DatasetCard | None:
    """Return the card of one dataset, or None where it has none; raises as :func:`dataset_cards`."""
    return _read(name) if name in cards.names("datasets") else None


def _read(name: str) -> DatasetCard:
    table, path = cards.read("datasets", name)
    card = DatasetCard.make(table, source=str(path))
    if card.name != name:
        raise ConfigError(f"{path}: 'name' is {card.name!r}; it must be {name!r}")
    return card
