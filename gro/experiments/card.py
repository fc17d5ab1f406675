"""Cards of experiments: which targets are made, and which thieves rob them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from gro import cards
from gro.config import Architecture, PositiveInt, Settings, read_toml
from gro.errors import ConfigError
from gro_surrogates.suites import SuiteThief, read_suite, suite_thief


class TargetCard(Settings):
    """One kind of target; plain unless it has protection settings."""

    name: str
    protection: dict[str, Any] | None = None
    """Settings of ``gro protect``; the target starts from the plain one of the same seed."""


class Published(Settings):
    """What a paper reports for one target, in percent: HR@10, HR@20, NDCG@10, NDCG@20 of the target and of its copy."""

    target: tuple[float, float, float, float]
    surrogate: tuple[float, float, float, float]


class ExperimentCard(Settings):
    """One file of ``experiments/``, or one block of it."""

    dataset: str
    model: Architecture = "SASRec"
    seeds: tuple[int, ...]
    calls: PositiveInt
    k: PositiveInt
    """Exposed k, the same for every target and thief."""
    thieves: tuple[str | dict[str, Any], ...] = ()
    """Thieves as in a suite."""
    suites: tuple[str, ...] = ()
    """Suites whose thieves come first."""
    targets: tuple[TargetCard, ...]
    training: dict[str, Any] = Field(default_factory=dict)
    """Settings of ``gro train`` for the plain targets."""
    published: dict[str, Published] = Field(default_factory=dict)
    """What a paper reports, by the name of the target."""
    note: str = ""
    """What a reader of the results has to know."""


class Experiment(Settings):
    """A card as it is run: its blocks, each an experiment with one dataset and one model."""

    name: str
    blocks: tuple[ExperimentCard, ...]

    @property
    def seeds(self) -> int:
        """Seeds of the block that has most."""
        return max(len(block.seeds) for block in self.blocks)


def read(card: str) -> Experiment:
    """Read a shipped card by name or any card by the path of its file.

    A card with ``blocks`` is several experiments; what stands outside the blocks holds for all of them.

    Raises:
        ConfigError: there is no such card, it is malformed, or it names a thief or suite that is not there.
    """
    table, path = (read_toml(Path(card)), Path(card)) if card.endswith(".toml") else cards.read("experiments", card)
    parts = table.pop("blocks", [{}])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ConfigError(f"{path}: 'blocks' is a list of tables: [[blocks]]")
    blocks = tuple(ExperimentCard.make({**table, **part}, str(path)) for part in parts)
    for block in blocks:
        if not thieves(block, path):
            raise ConfigError(f"{path}: an experiment needs thieves or suites")
    return Experiment(name=path.stem, blocks=blocks)


def thieves(block: ExperimentCard, path: Path = Path()) -> list[SuiteThief]:
    """The thieves of a block, each once.

    Raises:
        ConfigError: a card or a suite is not there or is malformed.
    """
    from_suites = [thief for suite in block.suites for thief in read_suite(suite).thieves]
    named = {thief.name: thief for thief in [*from_suites, *(suite_thief(entry, path) for entry in block.thieves)]}
    return list(named.values())
