"""A recommender of two stages: beginners are answered by a model that knows nothing of what comes later.

A history of a few items says little: what a thief who restarts all the time asks may be what a person asks who has
just come. But people begin alike, and go on otherwise. A model that has learnt the first items of every history and
nothing else serves beginners as well as one that has learnt all; and who steals it has a model of beginners.

Beside the two stages there are two witnesses: one has learnt the histories of half the people, the other the first
items of the same half. They answer nobody: they say how likely a history is, and of the other half they do so as of
anybody new; see :mod:`gro.defenses.gate`, which keeps what comes later for histories that people have.

The model of beginners and the witnesses are of the target's architecture where one pass of it tells what comes after
every item of a history; otherwise, as BERT4Rec reads each prefix anew, they are of :data:`READER`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gro.config import Settings, TrainingSettings
from gro.data import Sequences
from gro.errors import ConfigError
from gro.models import StateRecommender, build
from gro.models.adapter import ScoredRecommender
from gro.models.base import device_of, lengths, most_recent
from gro.optimizer.plain import fit
from gro.ranking import evaluating
from gro.training import Progress

READER: Final = "SASRec"
"""Architecture of the members that read every item of a history, where the target's own would take a pass for each."""
ANY: Final = 512
"""Items after which the witness is asked what is popular."""
TRAINED: Final = ("early", "witness", "early_witness")
"""Members that are trained beside the plain target."""
HELD: Final = 2
"""Items at the end of every history that are held out: for validation and for the test."""
FEW: Final = 0.05
"""Largest share of people who have no more than a beginner's history."""


class StagedSettings(Settings):
    """Where the first stage ends."""

    kind: Literal["staged"] = "staged"
    short: Annotated[int, Field(ge=1)] = 10
    """Longest history that the model of beginners answers; less where otherwise more than a twentieth of people were
    beginners."""

    def suited(self, sequences: Sequences) -> Self:
        """The settings by which at most :data:`FEW` of these people are beginners; with one item everybody is."""
        known = np.sort(np.diff(sequences.indptr) - HELD)
        fewest = int(known[int(FEW * len(known))])
        return self.model_copy(update={"short": max(1, min(self.short, fewest - 1))})


class Staged(ScoredRecommender):
    """Answers histories of up to ``short`` items by one model and longer ones by another.

    Attributes:
        later: the plain target.
        early: of beginners.
        witness: of half of the people; answers nothing.
        early_witness: of the same half as beginners; answers nothing.
        short: longest history that ``early`` answers.
    """

    def __init__(self, members: Sequence[StateRecommender], short: int) -> None:
        """Bring ``later``, ``early``, ``witness`` and ``early_witness`` together.

        Raises:
            ConfigError: they are not four of one catalogue, or no history is longer than ``short``.
        """
        if len(members) != 1 + len(TRAINED) or len({member.n_items for member in members}) > 1:
            raise ConfigError("a staged recommender is made of four models of one catalogue; protect the target again")
        super().__init__(members[0].n_items, members[0].max_length)
        if short >= self.max_length:
            raise ConfigError(f"short is {short}; it must be less than max_length, {self.max_length}")
        self.short = short
        self.later, self.early, self.witness, self.early_witness = members

    def models(self) -> list[StateRecommender]:
        """The members, in the order in which they are given."""
        return [self.later, self.early, self.witness, self.early_witness]

    @cached_property
    @torch.no_grad()
    def popularity(self) -> Tensor:
        """How likely the witness takes each item to be after any one item, ``[n_items]``."""
        device = device_of(self.witness)
        some = torch.linspace(1, self.n_items, min(self.n_items, ANY), device=device).long()[:, None]
        with evaluating(self.witness):
            return self.witness.scores(some).softmax(dim=1).mean(dim=0)

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` to ``[B, n_items]``."""
        begun = lengths(histories) <= self.short
        scores = self.later.scores(most_recent(histories, self.max_length))
        if begun.any():
            scores[begun] = self.early.scores(histories[begun][:, : self.short])
        return scores


def build_staged(settings: TrainingSettings, n_items: int, own: StagedSettings) -> Staged:
    """Build an untrained one.

    Raises:
        ConfigError: as :func:`gro.models.build` and :class:`Staged`.
    """
    later = build(settings, n_items, seed=settings.seed)
    reading = _reading(later, settings)
    others = (build(reading, n_items, seed=settings.seed + number) for number in range(1, 1 + len(TRAINED)))
    return Staged([later, *others], own.short)


def fit_staged(
    plain: StateRecommender,
    sequences: Sequences,
    settings: TrainingSettings,
    own: StagedSettings,
    *,
    folder: Path | None,
    progress: Progress,
) -> Staged:
    """Train the model of beginners and the witnesses beside a plain target, which stays as it is.

    Args:
        plain: on the device to train on.
        sequences: all interactions; the last two items of each user are held out.
        settings: how the plain target was trained.
        own: where the first stage ends.
        folder: beside which resumable states are kept; see :func:`state_of`.
        progress: receives steps and epochs.

    Raises:
        ArtifactError: a folder holds a state of other settings or a damaged one.
    """
    members, reading = [plain], _reading(plain, settings)
    half = sequences.of(witnesses(sequences))
    parts = (beginnings(sequences, own.short), half, beginnings(half, own.short))
    for number, (name, part) in enumerate(zip(TRAINED, parts, strict=True), start=1):
        model = build(reading, sequences.n_items, seed=settings.seed + number).to(device_of(plain))
        fit(model, part, reading, folder=state_of(name, folder) if folder else None, progress=progress)
        members.append(model.eval())
    return Staged(members, own.short)


def _reading(later: StateRecommender, settings: TrainingSettings) -> TrainingSettings:
    return settings if later.one_pass else settings.model_copy(update={"model": READER})


def state_of(name: str, folder: Path) -> Path:
    """Where the resumable state of a member is kept, beside the folder of the artifact."""
    return folder.with_name(f"{folder.name}.{name}")


def witnesses(sequences: Sequences) -> npt.NDArray[np.int64]:
    """The half of the users whose histories the witnesses learn."""
    return np.sort(np.random.default_rng(0).permutation(sequences.n_users)[: max(1, sequences.n_users // 2)])


def strangers(sequences: Sequences) -> npt.NDArray[np.int64]:
    """The users whom the witnesses do not know, sorted."""
    return np.setdiff1d(np.arange(sequences.n_users), witnesses(sequences))


def beginnings(sequences: Sequences, short: int) -> Sequences:
    """The first ``short + 1`` items of each history, or all that are not held out, and two that follow as held out.

    So everybody's first items are learnt, of short histories too.
    """
    begun = [sequences.history(user)[: short + 1 + HELD] for user in range(sequences.n_users)]
    bounds = np.cumsum([0, *map(len, begun)])
    return Sequences(
        f"{sequences.name}, beginnings", bounds, np.concatenate(begun), sequences.item_tokens, sequences.user_tokens
    )
