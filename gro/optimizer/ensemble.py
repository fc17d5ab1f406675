"""An ensemble keyed by history: EDM, the Ensemble of Diverse Models (Kariyappa et al., ICLR 2021).

Every history is answered by one member, and the members agree on real histories only: a thief who asks about others is
taught by one member here, by another there, and learns none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gro.config import ModelSettings, PositiveInt, Settings, SmallInt, TrainingSettings
from gro.data import Sequences
from gro.errors import ConfigError
from gro.models import StateRecommender, TrainableRecommender, build
from gro.models.adapter import ScoredRecommender
from gro.models.base import lengths
from gro.optimizer.plain import fit
from gro.training import Log, Progress

PREFIXES = 4
"""Prefixes of each random history after which the members are compared."""


class EnsembleSettings(Settings):
    """How many members there are and how they are driven apart."""

    kind: Literal["ensemble"] = "ensemble"
    members: Annotated[SmallInt, Field(ge=2)] = 3
    """Models of the ensemble; training and memory take as many times as much, an answer does not."""
    diversity: Annotated[float, Field(ge=0)] = 0.3
    """Weight of the members' similarity on random histories against the sum of their own losses."""
    queries: PositiveInt = 16
    """Random histories per step on which the members are driven apart, each at a few of its prefixes."""


class _Run(TrainingSettings):
    """What a training state belongs to."""

    own: EnsembleSettings


class KeyedEnsemble(ScoredRecommender):
    """Answers each history with one of its members, chosen by a keyed hash (BLAKE2b) of the last item.

    Nobody without the key can tell which. Histories that end in the same item have the same member: as with the coarse
    hash of the paper, asking again with another past does not reach another member. The key is no part of the state.

    Attributes:
        members: the models.
        choice: number of the member for every item, ``[n_items + 1]``.
    """

    choice: Tensor

    def __init__(self, members: Sequence[StateRecommender], key: bytes) -> None:
        """Bring ``members`` together under a ``key`` of 1 to 64 bytes.

        Raises:
            ConfigError: there are fewer than two members, they differ in size, or the key is too short or too long.
        """
        sizes = {(member.n_items, member.max_length) for member in members}
        if len(members) < 2 or len(sizes) > 1:
            raise ConfigError("an ensemble needs two or more members of one catalogue and max_length")
        if not 1 <= len(key) <= blake2b.MAX_KEY_SIZE:
            raise ConfigError(f"the ensemble's key has {len(key)} bytes; it must have 1 to {blake2b.MAX_KEY_SIZE}")
        super().__init__(*sizes.pop())
        self.members = nn.ModuleList(members)
        choice = [_hash(item, key) % len(members) for item in range(self.n_items + 1)]
        self.register_buffer("choice", torch.tensor(choice), persistent=False)

    def models(self) -> list[StateRecommender]:
        """The members, in order."""
        return [member for member in self.members if isinstance(member, StateRecommender)]

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` to ``[B, n_items]``; see :class:`KeyedEnsemble`."""
        last = histories.gather(1, lengths(histories)[:, None] - 1)[:, 0]
        chosen = self.choice[last]
        rows = [(chosen == number).nonzero()[:, 0] for number in range(len(self.members))]
        answers = [model.scores(histories[row]) for model, row in zip(self.models(), rows, strict=True) if len(row)]
        return torch.cat(answers)[torch.cat(rows).argsort()]


class _DiverseTraining(ScoredRecommender):
    """An ensemble whose loss is that of every member, and of their likeness on random histories."""

    def __init__(self, ensemble: KeyedEnsemble, own: EnsembleSettings) -> None:
        super().__init__(ensemble.n_items, ensemble.max_length)
        self.ensemble = ensemble
        self.own = own

    def scores(self, histories: Tensor) -> Tensor:
        return self.ensemble.scores(histories)

    def loss(self, windows: Tensor, context: Tensor | None = None) -> Tensor:
        models = self.ensemble.models()
        loss = torch.stack([model.loss(windows, context) for model in models]).sum()
        size = (self.own.queries, self.max_length)
        histories = torch.randint(1, self.n_items + 1, size, device=windows.device)
        ends = torch.randint(self.max_length, (len(histories), PREFIXES), device=windows.device)
        return loss + self.own.diversity * similarity(models, histories, ends)


def similarity(models: Sequence[TrainableRecommender], histories: Tensor, ends: Tensor) -> Tensor:
    """Cosine of two models' softmax outputs, mean over pairs of models and prefixes.

    Where the paper takes a smooth maximum over the pairs, this is their mean.

    Args:
        models: two or more.
        histories: item ids ``[B, T]``.
        ends: 0-based index of each prefix' last item ``[B, m]``.
    """
    outputs = [model.prefix_scores(histories, ends).softmax(dim=-1) for model in models]
    return torch.stack([F.cosine_similarity(a, b, dim=-1) for a, b in combinations(outputs, 2)]).mean()


def build_ensemble(
    settings: ModelSettings, n_items: int, own: EnsembleSettings, key: bytes, *, seed: int = 0
) -> KeyedEnsemble:
    """Build an untrained ensemble; its members have seeds that follow each other.

    Raises:
        ConfigError: as :func:`gro.models.build` and :class:`KeyedEnsemble`.
    """
    return KeyedEnsemble([build(settings, n_items, seed=seed + number) for number in range(own.members)], key)


def fit_ensemble(
    model: KeyedEnsemble,
    sequences: Sequences,
    settings: TrainingSettings,
    own: EnsembleSettings,
    *,
    folder: Path | None,
    progress: Progress,
) -> Log:
    """Train the members of ``model`` together in place; averaged and chosen as in :func:`gro.optimizer.plain.fit`.

    Args:
        model: untrained, on the device it shall be trained on.
        sequences: all interactions; the last two items of each user are held out.
        settings: how long and how fast to train.
        own: the defence's settings.
        folder: where the resumable state is kept.
        progress: receives steps and epochs.

    Raises:
        ArtifactError: the folder holds a state of other settings or a damaged one.
    """
    run = _Run(**settings.part(TrainingSettings).model_dump(), own=own)
    return fit(_DiverseTraining(model, own), sequences, run, folder=folder, progress=progress)


def _hash(item: int, key: bytes) -> int:
    return int.from_bytes(blake2b(item.to_bytes(8, "big"), key=key).digest(), "big")
