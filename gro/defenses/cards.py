"""Cards of defences: how the target is trained, and what stands in front of it when it is served."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gro.config import ProtectionSettings, Settings, read_toml
from gro.data import Sequences
from gro.defenses.base import Part
from gro.defenses.gate import Gate
from gro.defenses.inputs import EmbeddingNoise, EmbeddingScale, HistoryNoise
from gro.defenses.lists import Replace, Reverse, Shuffle, TieBlocks, Truncate
from gro.defenses.misinformation import Misinformation
from gro.defenses.pipeline import Defended
from gro.defenses.redirection import Redirection
from gro.defenses.scores import GaussianNoise, HighConfidence, ReverseSigmoid, Rounding
from gro.defenses.training import TRAININGS, PaperTraining, untrained
from gro.errors import ConfigError, nearest
from gro.models import Recommender
from gro.optimizer.staged import StagedSettings

FOLDER = Path(__file__).parent / "presets"
PARTS: tuple[type[Part], ...] = (
    Truncate,
    Shuffle,
    Reverse,
    TieBlocks,
    Replace,
    GaussianNoise,
    Rounding,
    HighConfidence,
    ReverseSigmoid,
    HistoryNoise,
    EmbeddingNoise,
    EmbeddingScale,
    Misinformation,
    Redirection,
    Gate,
)
SECRET_BYTES = 32


class DefenceCard(Settings):
    """One file of ``gro/defenses/presets/``; what is in the tables is for the class that its "kind" names."""

    training: dict[str, Any] | None = None
    """How the target is trained; unset keeps the plain one."""
    serving: tuple[dict[str, Any], ...] = ()
    """Parts between a history and the list that is served, in the order in which they act."""
    noise: Literal["fresh", "per-history"] = "fresh"
    """Whether every call has noise of its own or every history has."""
    secret: str | None = None
    """Hexadecimal key of the noise of histories, of false names and of the members of an ensemble; unset derives one
    from the interactions and the seed: as secret as these."""


@dataclass(frozen=True)
class Defence:
    """A card, read: the training and the parts as settings of their classes."""

    name: str
    training: Settings | None
    parts: tuple[Part, ...]
    noise: Literal["fresh", "per-history"]
    secret: str | None

    @property
    def key(self) -> bytes:
        """The secret."""
        return bytes.fromhex(self.secret or "")

    def keyed(self, sequences: Sequences, seed: int) -> Defence:
        """The defence with a secret: the card's, or one derived from the interactions."""
        derived = hashlib.blake2b(sequences.digest.encode(), digest_size=SECRET_BYTES, salt=seed.to_bytes(16, "little"))
        return replace(self, secret=self.secret or derived.hexdigest())

    def exposes(self, settings: ProtectionSettings, n_items: int) -> int:
        """How many items of a list of ``settings.k`` are served; to be asked before anything is trained.

        Raises:
            ConfigError: the target cannot be trained so, or the parts do not fit together or what is trained; names the
                defence.
        """
        shown = replace(self, secret=self.secret or "00")
        try:
            target = shown.before(untrained(self.training, settings, n_items, shown.key), settings.k, settings.seed)
        except ConfigError as error:
            raise ConfigError(f"defence '{self.name}': {error}") from None
        return target.k if isinstance(target, Defended) else settings.k

    def suited(self, sequences: Sequences) -> Defence:
        """The defence as it is trained for these interactions."""
        training = self.training
        return replace(self, training=training.suited(sequences)) if isinstance(training, StagedSettings) else self

    def require_people(self, sequences: Sequences) -> None:
        """Check, before anything is trained, that the interactions are enough for the defence.

        Raises:
            DataError: they are not.
        """
        for part in self.parts:
            part.require_people(sequences, self.training)

    @property
    def spends(self) -> bool:
        """Whether the defence keeps to a utility budget."""
        return isinstance(self.training, PaperTraining) or any(part.spends for part in self.parts)

    def fitted(self, model: Recommender, sequences: Sequences, utility_budget: float) -> Defence:
        """The defence of one target: its parts measured on the owner's interactions, under a budget."""
        return replace(self, parts=tuple(part.fitted(model, sequences, utility_budget) for part in self.parts))

    def before(self, model: Recommender, k: int, seed: int) -> Recommender:
        """Put the parts before a model whose lists have ``k`` items; where there are none it is the model itself.

        Raises:
            ConfigError: the parts do not fit together, or not this model.
        """
        if not self.parts:
            return model
        return Defended(model, self.parts, k, secret=self.key, per_history=self.noise == "per-history", seed=seed)

    def table(self) -> dict[str, Any]:
        """The card again, as JSON values."""
        training = None if self.training is None else self.training.model_dump(mode="json")
        serving = [part.model_dump(mode="json") for part in self.parts]
        return {"training": training, "serving": serving, "noise": self.noise, "secret": self.secret}


def names() -> list[str]:
    """The names of the shipped cards, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(card: str) -> Defence:
    """Read a shipped card by name or any card by the path of its file.

    Raises:
        ConfigError: there is no such card, or a line of it is unknown or out of range.
    """
    if card.endswith(".toml"):
        return parse(read_toml(Path(card)), card, Path(card).stem)
    if card not in names():
        raise ConfigError(f"no defence '{card}'.{nearest(card, names())} Defences: {', '.join(names())}")
    return parse(read_toml(FOLDER / f"{card}.toml"), str(FOLDER / f"{card}.toml"), card)


def parse(table: Mapping[str, Any], source: str, name: str) -> Defence:
    """Read the table of a card.

    Raises:
        ConfigError: a line is unknown or out of range; names ``source``.
    """
    card = DefenceCard.make(table, source)
    training = None if card.training is None else _made(card.training, TRAININGS, f"{source}: training")
    parts = [_made(part, PARTS, f"{source}: serving {n}") for n, part in enumerate(card.serving, start=1)]
    try:
        size = len(bytes.fromhex(card.secret or ""))
    except ValueError:
        raise ConfigError(f"{source}: 'secret' is not hexadecimal; leave it out and one is drawn") from None
    if size > hashlib.blake2b.MAX_KEY_SIZE:
        raise ConfigError(f"{source}: 'secret' has {size} bytes; give at most {hashlib.blake2b.MAX_KEY_SIZE}")
    return Defence(name, training, tuple(parts), card.noise, card.secret)


def _made(table: Mapping[str, Any], classes: Sequence[type[Any]], source: str) -> Any:
    kinds = {cls.model_fields["kind"].default: cls for cls in classes}
    values = {key.replace("-", "_"): value for key, value in table.items()}
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{source}: kind is {kind!r}.{nearest(str(kind), kinds)} Kinds: {', '.join(kinds)}")
    return kinds[kind].make(values, f"{source} '{kind}'")
